"""graft.py SRC DST: SRC's answers, attribution and selection as those of DST (what differs they do not read)."""
import sys, json, shutil
from pathlib import Path
from nt_jax.config.load import load_config
from nt_jax.run import pipeline
from nt_jax.run.preflight import read_inputs
from nt_jax.rundir import RunDirectory
src, dst, words = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
config = load_config("smollm2-135m", [f"run_dir={dst}", *words])
dst.mkdir()
inputs = read_inputs(config)
with RunDirectory(config.folder) as d:
    table, keys = pipeline.begin(config, d, inputs)
for n in ("answers", "attribute", "select"):
    shutil.copytree(src/n, dst/n)
    done = json.loads((dst/n/"DONE").read_text()); print(n, done["key"]==keys[n]); done["key"]=keys[n]
    (dst/n/"DONE").write_text(json.dumps(done, indent=1)+"\n")
t = dst/".train.tmp"; t.mkdir(); shutil.copy(src/"train"/"base_validation.json", t)
old = json.loads((src/"train"/"DONE").read_text())
(t/"RESUME").write_text(json.dumps({"key": keys["train"], "made_from": old["made_from"], "files": None, "empty": [], "outcome": [], "later": []}, indent=1)+"\n")
