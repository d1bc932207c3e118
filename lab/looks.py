import sys; sys.path.insert(0,"/work/tmp/lab")
from common import *
lab = Lab(sys.argv[1]); S = float(sys.argv[2]) if len(sys.argv)>2 else 1.0
ones = np.ones(len(lab.neurons)); 
last = np.asarray(lab.state.average_P)
theta = np.clip(1+S*(last-1), 0, 4)
print("rms", np.sqrt(np.mean((theta-1)**2)), "base", {k: round(100*float(v.mean()),1) for k,v in lab.base.refused.items()}, flush=True)
lab.apart(np.ones_like(theta)); lab.apart(theta)
f = lab.out/f"lab_slopes_{S}.npz"
cells = lab.rows(180, 7)
if not f.exists():
    m = lab.measure(theta, {k: cells[k] for k in CELLS}); np.savez(f, **{k: m.cells[k] for k in CELLS}, **{"v_"+k: m.values[k] for k in CELLS})
z = np.load(f)
S_ = {k: z[k].astype(np.float64) for k in CELLS}; V = {k: z["v_"+k] for k in CELLS}
print("train decisions", {k: (round(float(V[k].mean()),2)) for k in CELLS}, "A %.3f D %.3f"%(auc(V[ATTACKED_HARMFUL],V[ATTACKED_HARMLESS]), auc(V[HARMFUL],V[HARMLESS])))
def short(want):
    C = np.stack([S_[k].mean(0) for k in want]); r = np.array([want[k] for k in want])
    F = np.asarray(divided(lab.metric, jnp.asarray(C, jnp.float32)), np.float64)
    d = F.T @ np.linalg.solve(C @ F.T, r)
    print("lift", want, "rms/nat %.5f"%np.sqrt(np.mean(d**2)), {k: round(float((S_[k]@d).mean()),2) for k in CELLS}, flush=True)
    return d
uD = short({HARMFUL: 1.0, ATTACKED_HARMFUL: 0.0})
uA = short({ATTACKED_HARMFUL: 1.0, HARMFUL: 0.0, HARMLESS: 0.0})
np.savez(lab.out/f"lab_lifts_{S}.npz", theta=theta, uD=uD, uA=uA)
bare, att = [DIRECT, HARMLESS, SOUNDS_HARMFUL], [ATTACK, IN_ATTACK]
lab.look(theta, None, "s%.2f"%S)
for d in (-1,1,2): lab.look(theta+d*uD, bare, f"D{d:+}")
for a in (1,2,3): lab.look(theta+a*uA, None if a==2 else att, f"A{a:+}")
