"""The examples run as they are printed, on a tiny model."""

import json
import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import nt_jax as nt
from nt_jax.eval import evaluate
from nt_jax.eval.metrics.intervals import paired_change
from tests import tiny

EXAMPLES = Path(__file__).parents[1] / "examples"
EXAMPLE, NOTEBOOK = EXAMPLES / "paper_in_30_lines.py", EXAMPLES / "own_score.ipynb"
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
    few = nt.TuneConfig(epochs=1, metric_requests=8, separation_every=0, lifts=(), strengths=())
    with jax.numpy_dtype_promotion("standard"):  # Adam mixes its types
        main = runpy.run_path(str(EXAMPLE))["main"]
        rows = main(str(source), str(tuned), (14, 10), first=0, tune=few, limit=LIMIT)
    printed = capsys.readouterr().out
    sets = {row.dataset for row in rows if row.metric == "refusal_rate"}
    assert {"demo_attack", "demo_harmless"} == sets
    assert {row.model for row in rows} == {"base", "tuned"}
    assert printed.count("refuses") == 4
    base_SN, tuned_SN = np.array(judge.said).reshape(2, len(sets), LIMIT)
    change_SN = tuned_SN - base_SN  # the same prompts in the same order
    assert (change_SN != 0).any()
    found = re.findall(r"change (\S+) points, 95 % interval (\S+) \.\. (\S+) \(paired\)", printed)
    paired = [(change_N.mean(), *paired_change(change_N)) for change_N in change_SN]
    np.testing.assert_allclose(np.array(found, float), 100 * np.array(paired), atol=0.51)
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tuned))
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and all(name.endswith("down_proj.weight") for name in moved)


def test_own_score(tmp_path, monkeypatch, capsys):
    """The notebook's code, cell by cell in one namespace as a kernel has it."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    source = tiny.copy("smollm2", tmp_path / "tiny")
    tiny.edit_json(source / "config.json", max_position_embeddings=1024)
    monkeypatch.setenv("NT_JAX_MODEL", str(source))
    monkeypatch.setenv("NT_JAX_COUNT", "14")
    names: dict = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    said = capsys.readouterr().out
    assert "3 safety and 3 utility examples" in said and "14.6% by chance" in said
    ours, model = names["ours"], names["model"]
    # By hand: the 14 neurons whose mean value on attacked harmful prompts exceeds that on harmless.
    values = {}
    for name in ("safety", "utility"):
        prompts = [model.encode(example.attacked) for example in names[name]]
        values[name] = np.mean([np.asarray(names["activity"](model.lm, [p])) for p in prompts], 0)
    gap_LF = values["safety"] - values["utility"]
    layer_P, index_P = (x[ours.is_safety_P] for x in (ours.layer_P, ours.index_P))
    lowest = np.sort(gap_LF.ravel())[-14]
    assert (gap_LF[layer_P, index_P] >= lowest - 1e-6).all()
    assert names["shared"]["safety"] == pytest.approx(
        len(names["places"](ours, True) & names["places"](names["paper"], True)) / 14
    )
