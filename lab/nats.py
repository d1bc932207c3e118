import sys; sys.path.insert(0,"/work/tmp/lab")
import numpy as np
from nt_jax.train.slopes import CellSlopes
from nt_jax.attribution.store import load_neurons
from nt_jax.train.preconditioner import make_preconditioner
from nt_jax.train.outer import divided
from nt_jax.train.regression import combination
from nt_jax.train.cells import *
from nt_jax.config.method import TuneConfig
from pathlib import Path
out=Path("/work/tmp/lab/big0")
n,_=load_neurons(out/"select"/"neurons.csv")
f=next((out/"attribute").rglob("slopes.npz"))
s=CellSlopes.load(f).of((np.asarray(n.layer_P)-15)*1536+np.asarray(n.index_P))
m=make_preconditioner(s.cells[OWN],1e-4)
S=np.concatenate([s.cells[c] for c in CELLS]); free=np.asarray(divided(m,S))
for length in (.02,.04,.08):
    a,l=combination(s,free,length,TuneConfig())
    d=a@free; g=S@d
    print(length, "rms", np.sqrt(np.mean(d**2)), "nats rms", np.sqrt(np.mean(g**2)), {c: round(float((s.cells[c]@d).mean()),2) for c in CELLS}, {c: round(float(s.values[c].mean()),2) for c in CELLS}, flush=True)
