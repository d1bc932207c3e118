import json, sys, time, functools, dataclasses
from pathlib import Path
import numpy as np, jax, jax.numpy as jnp
from nt_jax.config.load import load_config
from nt_jax.run.preflight import read_inputs
from nt_jax.eval.judges.judge import open_judge
from nt_jax.train.tuning_data import tuning_data
from nt_jax.run import stages
from nt_jax.attribution.store import load_neurons
from nt_jax.train.validate import *
from nt_jax.train.validate import KINDS
from nt_jax.train.theta import place, scatter
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.outer import *
from nt_jax.train.cells import *
from nt_jax.train.separation import auc
from nt_jax.train.slopes import DECISION, measured_slopes, by_cell, answer_rows
from nt_jax.train.state import restore
from nt_jax.train.tune import fresh_state, STATES
import yaml
class Lab:
    def __init__(self, out, answers=2100):
        self.out = Path(out)
        words=sys.argv[2:]
        self.config = load_config("smollm2-135m", ["run_dir="+str(out), *words])
        self.inputs = read_inputs(self.config); self.model = self.inputs.model
        self.judge = open_judge(self.config.eval.judge)
        self.tune = self.config.tune
        self.data = tuning_data(self.model, self.inputs.records, self.tune.model_copy(update={"validation_answers": answers}), self.config.data, judge=self.judge, folder=self.out/"answers")
        self.neurons, _ = load_neurons(self.out/"select"/"neurons.csv")
        self.tuned = TunedLayers.of(self.model.lm, self.neurons)
        self.slopes = stages.slopes_of(self.out/"attribute", self.out/"select", self.config.neurons.first_layer, self.model)
        self.metric = preconditioner_of(self.slopes, self.tune, self.model.lm)
        train = self.out/"train"
        if not train.exists(): train = self.out/".train.tmp"
        self.state = restore(train/STATES, fresh_state(self.tune, self.neurons))
        self.prompts = self.data.validation
        f = self.out/"lab_base.json"
        if f.exists(): ids = json.loads(f.read_text())
        else:
            ids = [list(map(int, r)) for r in self.model.own_answers(self.prompts.every, NEW_TOKENS)]; f.write_text(json.dumps(ids))
        self.base = look_at(self.model, self.judge, self.prompts, ids)
    def rows(self, count, turn):
        return cell_rows(self.data.pools, count, turn=turn)
    def measure(self, theta_P, cells):
        at = functools.partial(measured_slopes, self.tuned, jnp.asarray(theta_P), what=DECISION)
        return measured_cells(self.model, cells, self.tune, at)
    def look(self, theta_P, kinds=None, name=""):
        begun=time.time()
        prompts = self.prompts
        if kinds: prompts = Validation({k: prompts.prompts[k] for k in kinds}, {k: prompts.asked[k] for k in kinds})
        scale = scatter(jnp.asarray(theta_P, jnp.float32), place(self.neurons), self.model.lm.ones_LF)
        ids = self.model.answer(prompts.every, NEW_TOKENS, scale_LF=scale)
        answers = [self.model.text(r) for r in ids]
        v = np.asarray(self.judge.verdicts(prompts.requests, answers), float)
        out = {k: round(100*float(v[list(p)].mean()),1) for k,p in prompts.places().items()}
        if HARMLESS in out: out["ppl"] = round(perplexity(self.model, prompts, ids)/self.base.rates["perplexity"],3)
        short = {"attack":"att","direct":"dir","harmless":"plain","sounds_harmful":"sounds","attacked_harmless":"inatt"}
        print(name, " ".join(f"{short.get(k,k)} {x}" for k,x in out.items()), f"({time.time()-begun:.0f}s)", flush=True)
        return out, answers, v
    def apart(self, theta_P):
        """AUCs on validation by decisions: attacked, direct vs plain, direct vs sounds, sep of attacked within threshold"""
        from nt_jax.data.packing import Row
        opening = list(self.data.pools.global_safety.direct[0].answer)[: self.tune.answer_tokens]
        rows = [Row(self.model.encode(p), opening) for p in self.prompts.every]
        val = values_only(self.tuned, jnp.asarray(theta_P), rows)
        pl = self.prompts.places(); g = {k: val[list(p)] for k,p in pl.items()}
        print("A %.3f D %.3f DS %.3f"%(auc(g[ATTACK],g[IN_ATTACK]), auc(g[DIRECT],g[HARMLESS]), auc(g[DIRECT],g[SOUNDS_HARMFUL])), {k: round(float(x.mean()),2) for k,x in g.items()}, flush=True)
        return g
from nt_jax.train.objectives import decisions
from nt_jax.data.packing import pack_alone, Shape, LENGTH_STEP
from nt_jax.data.batching import bucket
@jax.jit
def _vals(theta_P, lm, neurons, batch):
    scale = scatter(theta_P, neurons, lm.ones_LF)
    return decisions(lm, scale, batch)[:,0]
def values_only(tuned, theta_P, rows, side=16):
    out=np.zeros(len(rows)); order=sorted(range(len(rows)), key=lambda r: rows[r].tokens)
    for s in range(0,len(order),side):
        mine=order[s:s+side]; L=bucket(rows[mine[-1]].tokens, LENGTH_STEP); T=bucket(max(rows[r].targets for r in mine),8)
        batch=tuned.enter(pack_alone([rows[r] for r in mine], Shape(1,side,L,T,1)))
        alone=jax.tree.map(lambda leaf: leaf[0], batch)
        out[mine]=np.asarray(_vals(theta_P, tuned.lm, tuned.neurons, alone))[:len(mine)]
    return out
