"""The benchmarks run on a tiny model, and their torch reference gives our scores."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def last_line(script: str, *words: str) -> dict:
    command = [sys.executable, "-W", "ignore", f"benchmarks/{script}.py", "--json", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_ircan_in_torch_gives_our_scores():
    pytest.importorskip("torch")
    found = last_line("attribution", "--model", "tiny", "--layers", "0", "--prompt", "40",
                      "--answer", "5", "--steps", "4", "--repeats", "1")  # fmt: skip
    assert found["cosine"] > 0.99999
    assert {"speedup_first_token", "speedup_answer"} < found.keys()
    for name in ("first_token", "answer"):
        assert found[name]["reference_layers"] == [0, 1, 2, 3]
        assert found[name]["speedup"] == pytest.approx(
            sum(found[name]["reference_layer_seconds"]) / found[name]["seconds"]
        )
