"""The example of the README runs as it is printed, on a tiny model."""

import re
import runpy
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file

import nt_jax as nt
from nt_jax.eval import evaluate
from nt_jax.eval.metrics.intervals import bootstrap_mean
from tests import tiny

EXAMPLE = Path(__file__).parents[1] / "examples" / "paper_in_30_lines.py"
LIMIT = 8


class Parity:
    """A judge under whom a tiny model's answers differ: refused where their length is odd."""

    name, sha256 = "parity", "0" * 64

    def __init__(self):
        self.said: list[int] = []

    def verdicts(self, requests: list[str], answers: list[str]) -> list[int]:
        values = [len(answer) % 2 for answer in answers]
        self.said += values
        return values


def test_paper_in_30_lines(tmp_path, capsys, monkeypatch):
    text = EXAMPLE.read_text()
    body = text[text.index("def main") : text.index("if __name__")].splitlines()
    assert len([line for line in body if line.strip()]) <= 30
    source, tuned = tiny.copy("smollm2", tmp_path / "tiny"), tmp_path / "tuned"
    tiny.edit_json(source / "config.json", max_position_embeddings=1024)
    judge = Parity()
    monkeypatch.setattr(evaluate, "PhraseJudge", lambda: judge)
    few = nt.TuneConfig(epochs=1, metric_requests=8, first_move=0.5, margins_every=0, strengths=())
    with jax.numpy_dtype_promotion("standard"):  # Adam mixes its types
        main = runpy.run_path(str(EXAMPLE))["main"]
        rows = main(str(source), str(tuned), (14, 10), first=0, tune=few, limit=LIMIT)
    printed = capsys.readouterr().out
    sets = {row.dataset for row in rows if row.metric == "refusal_rate"}
    assert {"demo_attack", "demo_direct", "demo_harmless"} == sets
    assert {row.model for row in rows} == {"base", "tuned"}
    assert printed.count("refuses") == 6
    base_SN, tuned_SN = np.array(judge.said).reshape(2, len(sets), LIMIT)
    change_SN = tuned_SN - base_SN  # the same prompts in the same order
    assert (change_SN != 0).any()
    found = re.findall(r"change (\S+) points, 95 % interval (\S+) \.\. (\S+) \(paired\)", printed)
    paired = [(change_N.mean(), *bootstrap_mean(change_N)) for change_N in change_SN]
    np.testing.assert_allclose(np.array(found, float), 100 * np.array(paired), atol=0.51)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tuned))
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and all(name.endswith("down_proj.weight") for name in moved)
