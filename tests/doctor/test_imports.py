"""A plan is there in seconds: what takes a second to import, and is of no use to it, is not."""

import json
import os
import subprocess
import sys

PLAN = """
import json, sys
from nt_jax.cli import main
code = main("doctor", ["llama3.1-8b", "--devices", "8xH100"])
print(json.dumps([code, sorted(sys.modules)]))
"""
HEAVY = ("torch", "matplotlib", "scipy.stats", "orbax", "sklearn")


def test_a_plan_imports_nothing_heavy_that_it_does_not_use():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLAN], env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0 and "time       about" in done.stdout
    assert "jax" in modules
    assert not {*HEAVY} & {*modules}
