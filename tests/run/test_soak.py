"""300 epochs and 2,000 answers in one process: nothing piles up, nothing is compiled again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.run import soak

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_memory_stays_and_no_program_is_compiled_after_the_warm_up(recipe, tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "tests.run.soak", str(recipe)]
    done = subprocess.run(
        [*command, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found, indent=1))
    assert found["tuning"]["steps"] == soak.EPOCHS == 300
    assert found["answers"]["steps"] * soak.EACH == 2000
    for part in found.values():
        assert part["recompiled"] == 0 and part["programs"] > 0, found
        assert part["growth"] < 0.02, found
