import sys; sys.path.insert(0,"/work/tmp/lab")
from common import *
lab = Lab(sys.argv[1])
theta = np.asarray(lab.state.average_P, np.float64)
print("rms", np.sqrt(np.mean((theta-1)**2)), "base", {k: round(100*float(v.mean()),1) for k,v in lab.base.refused.items()}, flush=True)
g0 = lab.apart(theta)
for k,x in g0.items(): print(k, np.round(np.quantile(x,[.1,.25,.5,.75,.9]),2))
f = lab.out/"lab_slopes.npz"
cells = lab.rows(90, 7)
if not f.exists():
    m = lab.measure(theta, {k: cells[k] for k in CELLS}); np.savez(f, **{k: m.cells[k] for k in CELLS}, **{"v_"+k: m.values[k] for k in CELLS})
z = np.load(f)
S_ = {k: z[k].astype(np.float64) for k in CELLS}; V = {k: z["v_"+k] for k in CELLS}
print("train decisions", {k: np.round(np.quantile(V[k],[.1,.5,.9]),2) for k in CELLS}, "A %.3f D %.3f"%(auc(V[ATTACKED_HARMFUL],V[ATTACKED_HARMLESS]), auc(V[HARMFUL],V[HARMLESS])), flush=True)
def short(want):
    C = np.stack([S_[k].mean(0) for k in want]); r = np.array([want[k] for k in want])
    F = np.asarray(divided(lab.metric, jnp.asarray(C, jnp.float32)), np.float64)
    d = F.T @ np.linalg.solve(C @ F.T, r)
    print("lift", want, "rms/nat %.5f"%np.sqrt(np.mean(d**2)), {k: np.round(np.quantile(S_[k]@d,[.1,.5,.9]),2) for k in CELLS}, flush=True)
    return d
uD = short({HARMFUL: 1.0, ATTACKED_HARMFUL: 0.0})
uA = short({ATTACKED_HARMFUL: 1.0, HARMFUL: 0.0, HARMLESS: 0.0})
u = short({ATTACKED_HARMFUL: 1.0, HARMFUL: 1.0})
np.savez(lab.out/"lab_lifts.npz", theta=theta, uD=uD, uA=uA, u=u)
for name, d in (("bare+2", 2*uD), ("all+2", 2*u), ("att+2", 2*uA)):
    g = lab.apart(theta+d); print(name, {k: round(float((g[k]-g0[k]).mean()),2) for k in g}, flush=True)
lab.look(theta+2*u, None, "all+2")
