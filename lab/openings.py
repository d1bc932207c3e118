import sys; sys.path.insert(0,"/work/tmp/lab")
from common import *
import collections
from nt_jax.data.packing import Row
lab = Lab(sys.argv[1])
z=np.load(lab.out/"lab_lifts.npz"); theta=z["theta"]
opening = list(lab.data.pools.global_safety.direct[0].answer)[:8]
print([lab.model.text([t]) for t in opening])
for name, th in (("s1", theta), ("all+1", theta+z["u"])):
    out, answers, v = lab.look(th, [DIRECT, ATTACK], name)
    c=collections.Counter(" ".join(a.split()[:6]) for a in answers[:50]); print("direct", c.most_common(12))
    c=collections.Counter(" ".join(a.split()[:5]) for a in answers[50:]); print("attack", c.most_common(12), flush=True)
