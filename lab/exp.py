"""exp.py OUT [overrides]: a tuning on clean0's neurons and slopes, by this tree's data."""
import sys, time, shutil
from pathlib import Path
sys.path.insert(0, "/work/tmp/lab")
from nt_jax.config.load import load_config
from nt_jax.run.preflight import read_inputs
from nt_jax.eval.judges.judge import open_judge
from nt_jax.train.tuning_data import tuning_data
from nt_jax.run import stages
from nt_jax.attribution.store import load_neurons
from nt_jax.train.tune import tune
SRC = Path("/work/tmp/lab/clean0")
out = Path(sys.argv[1]); out.mkdir(exist_ok=True)
config = load_config("smollm2-135m", ["run_dir="+str(out), *sys.argv[2:]])
inputs = read_inputs(config); model = inputs.model; judge = open_judge(config.eval.judge)
if not (out/"answers").exists(): shutil.copytree(SRC/"answers", out/"answers")
data = tuning_data(model, inputs.records, config.tune, config.data, judge=judge, folder=out/"answers")
neurons, _ = load_neurons(SRC/"select"/"neurons.csv")
slopes = stages.slopes_of(SRC/"attribute", SRC/"select", config.neurons.first_layer, model)
(out/"train").mkdir(exist_ok=True); (out/"train"/"base_validation.json").exists() or shutil.copy(SRC/"train"/"base_validation.json", out/"train")
begun = time.time()
f = tune(model, neurons, data, config.tune, judge=judge, seed=0, folder=out/"train", slopes=slopes)
print("seconds", time.time()-begun)
for l in open(out/"train"/"metrics.jsonl"): print(l[:600])
import json
for l in open(out/"train"/"strengths.jsonl"):
    d = json.loads(l); print(d["strength"], {k[8:]: round(100*v,1) for k,v in d.items() if k.startswith("refusal")}, round(d["perplexity_ratio"],3))
