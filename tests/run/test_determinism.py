"""The same bytes on the same mesh; on another the same neurons, answers and, nearly, numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.run import small

pytestmark = pytest.mark.xdist_group("run")
slow = pytest.mark.slow  # every program is compiled once more for two devices
CLOSE = 1e-6
SUMS = 4e-6  # of the largest score: float32 sums over a layer in another order (measured: 1.6e-6)
FLOATS = ("value", "low", "high")
# What says when or where it was written: reports, Orbax's own files, and digests of these.
MARKED = ("orbax", "report.html", "report.md", "settings.yaml")


@pytest.fixture(scope="module")
def again(finished, tmp_path_factory) -> Path:
    """The run once more."""
    return made(finished, tmp_path_factory.mktemp("again") / "run")


@pytest.fixture(scope="module")
def split(finished, tmp_path_factory) -> Path:
    """The run with its neurons, heads and vocabulary on two devices."""
    return made(finished, tmp_path_factory.mktemp("split") / "run", "mesh.model=2")


def made(finished, folder: Path, *words: str) -> Path:
    small.carry_on(small.settings(finished.recipe, folder, *words))
    return folder


@pytest.mark.parametrize("stage", small.STAGES)
def test_every_stage_has_the_same_bytes_again(stage, finished, again):
    one, other = (unmarked(folder / stage) for folder in (finished.folder, again))
    assert one == other and one


def unmarked(stage: Path) -> dict[str, str]:
    """The files of a stage by their hashes, but for those that are marked."""
    marked = {*MARKED, "DONE"} if stage.name in ("train", "report") else {*MARKED}
    found = small.contents(stage)
    return {name: found[name] for name in found if not marked.intersection(Path(name).parts)}


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@slow
def test_another_mesh_gives_the_same_answers_and_numbers(finished, split):
    for name in ("answers/own_answers.jsonl", "base/base.jsonl", "tuned/tuned.jsonl"):
        assert rows(split, name) == rows(finished.folder, name), name
    both = (path / "report" / "results.json" for path in (split, finished.folder))
    found, wanted = (json.loads(path.read_text()) for path in both)
    assert len(found) == len(wanted)
    for row, other in zip(found, wanted, strict=True):  # sums of likelihoods in another order
        assert row == other | {
            key: pytest.approx(other[key], rel=CLOSE, abs=CLOSE) for key in FLOATS
        }, other


@slow
def test_another_mesh_gives_the_same_scores_nearly(finished, split):
    one, other = (np.load(path / "attribute" / "scores.npz") for path in (finished.folder, split))
    assert {*one} == {*other}
    for name in one:
        if one[name].dtype.kind != "f":
            np.testing.assert_array_equal(other[name], one[name])
            continue
        size = np.abs(one[name]).max()
        assert np.abs(other[name] - one[name]).max() <= SUMS * size, name


def neurons(folder: Path, stage: str) -> list[list[str]]:
    lines = (folder / stage / "neurons.csv").read_text().splitlines()
    return [line.split(",") for line in lines]


@slow
def test_another_mesh_gives_the_same_neurons(finished, split):
    one, other = (neurons(path, "select") for path in (finished.folder, split))
    assert [row[:2] for row in other] == [row[:2] for row in one]


@slow
def test_another_mesh_gives_the_same_factors_and_export_nearly(finished, split):
    one, other = (neurons(path, "train") for path in (finished.folder, split))
    column = one[0].index("factor")
    factors = [np.array([float(row[column]) for row in found[1:]]) for found in (one, other)]
    assert np.abs(factors[1] - factors[0]).max() <= CLOSE
    weights = [load_file(path / "export/hf/model.safetensors") for path in (finished.folder, split)]
    for name, tensor in weights[0].items():
        near = CLOSE * np.abs(tensor).max()
        assert np.abs(weights[1][name] - tensor).max() <= near, name
