"""tune.py OUT [overrides...]: data, attribution and tuning without validation."""
import sys, time
from pathlib import Path
from nt_jax.config.load import load_config
from nt_jax.run import pipeline
out, words = sys.argv[1], sys.argv[2:]
config = load_config("smollm2-135m", ["run_dir="+out, "tune.schedule=constant", "tune.meta_lr=0.04", "tune.epochs=3", "tune.metric_requests=1440", "tune.strengths=[]", "tune.validate_every=0", *words])
begun = time.time()
pipeline.run(config, until="train")
print("seconds", time.time()-begun)
