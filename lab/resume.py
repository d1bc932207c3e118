"""resume.py SRC DST [overrides]: DST is SRC's run under other settings, its tuning gone on with."""
import sys, json, shutil
from pathlib import Path
from nt_jax.config.load import load_config
from nt_jax.run import pipeline
from nt_jax.run.preflight import read_inputs
from nt_jax.rundir import RunDirectory
src, dst, words = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
config = load_config("smollm2-135m", [f"run_dir={dst}", *words])
shutil.copytree(src, dst, ignore=shutil.ignore_patterns("train", ".train.tmp", "lab_*", ".holder.json", ".lock", "export","base","tuned","eval","report"))
t = src/"train" if (src/"train").exists() else src/".train.tmp"
shutil.copytree(t, dst/".train.tmp")
old = json.loads((t/("DONE" if (t/"DONE").exists() else "RESUME")).read_text())
for f in ("DONE","neurons.csv","neurons.parquet","strengths.jsonl","lines.jsonl"): (dst/".train.tmp"/f).unlink(missing_ok=True)
def mark(key): (dst/".train.tmp"/"RESUME").write_text(json.dumps({"key": key, "made_from": old["made_from"], "files": None, "empty": [], "outcome": [], "later": []}, indent=1)+"\n")
mark(old["key"])
inputs = read_inputs(config)
with RunDirectory(config.folder) as d:
    table, keys = pipeline.begin(config, d, inputs)
print({k: (dst/k/"DONE").exists() and json.loads((dst/k/"DONE").read_text())["key"]==keys[k] for k in ("answers","attribute","select")})
if not (dst/".train.tmp").exists(): shutil.copytree(t, dst/".train.tmp"); [(dst/".train.tmp"/f).unlink(missing_ok=True) for f in ("DONE","neurons.csv","neurons.parquet","strengths.jsonl","lines.jsonl")]
mark(keys["train"])
print("marked", sorted(p.name for p in (dst/".train.tmp").iterdir()))
