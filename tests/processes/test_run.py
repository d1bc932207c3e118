"""A whole run by several processes: the same neurons, factors and answers as by one."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load_file

from nt_jax import exits
from nt_jax.train import level
from tests.processes.group import MESHES, SHARES, Group, alone, words
from tests.run import small

pytestmark = [pytest.mark.procs, pytest.mark.xdist_group("procs")]
CLOSE = 1e-6
BY_REGRESSION = 1e-5  # of the largest factor
SLOW = pytest.mark.slow
CASES = (
    pytest.param((2, MESHES[2]), id="2"),
    pytest.param((4, MESHES[4]), id="4", marks=SLOW),
    pytest.param((2, SHARES), id="2-fsdp", marks=SLOW),
)
MINUTE = 60
FLOATS = ("value", "low", "high")


class Several(NamedTuple):
    """The run by several processes."""

    count: int
    mesh: Sequence[str]
    folder: Path
    heard: set[str]  # where they listened


@pytest.fixture(scope="session", params=CASES)
def several(request, recipe, tmp_path_factory, programs) -> Several:
    count, mesh = request.param
    folder = tmp_path_factory.mktemp("several") / "run"
    group = Group(count, words("train", recipe, folder, mesh=mesh), programs)
    ended = group.ends(20 * MINUTE)
    assert [each.code for each in ended] == [exits.DONE] * count, ended
    said = [[line for line in each.out.splitlines() if "[Gloo]" not in line] for each in ended]
    assert [bool(lines) for lines in said] == [True] + [False] * (count - 1)
    return Several(count, mesh, folder, group.heard)


def rows(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def neurons(folder: Path, stage: str) -> list[list[str]]:
    lines = (folder / stage / "neurons.csv").read_text().splitlines()
    return [line.split(",") for line in lines]


def factors(folder: Path) -> np.ndarray:
    head, *rest = neurons(folder, "train")
    return np.array([float(row[head.index("factor")]) for row in rest])


def same_tuning(folder: Path, one: Path) -> None:
    mine, theirs = (neurons(path, "select") for path in (folder, one))
    assert [row[:2] for row in mine] == [row[:2] for row in theirs]
    assert np.abs(factors(folder) - factors(one)).max() <= CLOSE


def same_answers(folder: Path, one: Path) -> None:
    for name in ("answers/own_answers.jsonl", "base/base.jsonl", "tuned/tuned.jsonl"):
        assert rows(folder, name) == rows(one, name), name
    both = (json.loads((path / "report/results.json").read_text()) for path in (folder, one))
    for row, other in zip(*both, strict=True):
        near = {key: pytest.approx(other[key], rel=CLOSE, abs=CLOSE) for key in FLOATS}
        assert row == other | near, other


def test_what_runs_do_unless_told_otherwise_is_the_same_by_two(recipe, tmp_path, programs):
    """A regression with lifts: its sums enter a system that is solved, so factors part further."""
    more = [*small.DECISION, "tune.lifts=[0.25,0.75]"]
    folders = tmp_path / "one", tmp_path / "two"
    done = alone([*words("train", recipe, folders[0]), *more], programs)
    assert done.code == exits.DONE, done
    group = Group(2, [*words("train", recipe, folders[1], mesh=MESHES[2]), *more], programs)
    ended = group.ends(20 * MINUTE)
    assert [each.code for each in ended] == [exits.DONE] * 2, ended
    chosen = [[row[:2] for row in neurons(folder, "select")] for folder in folders]
    assert chosen[0] == chosen[1]
    one, two = map(factors, folders)
    assert np.abs(one - two).max() <= BY_REGRESSION * one.max()
    looks = [[level.nats_of(row) for row in rows(f, "train/lifts.jsonl")] for f in folders]
    assert looks[0] == looks[1] and len(looks[0]) > 1


def test_the_neurons_and_factors_are_those_of_one_process(several, one):
    same_tuning(several.folder, one)


def test_the_answers_and_numbers_are_those_of_one_process(several, one):
    same_answers(several.folder, one)


def test_the_export_is_that_of_one_process(several, one):
    mine, theirs = (
        load_file(path / "export/hf/model.safetensors") for path in (several.folder, one)
    )
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert np.abs(mine[name] - tensor).max() <= CLOSE * np.abs(tensor).max(), name


def test_nothing_but_the_run_is_left_and_nobody_listened_elsewhere(several, one):
    folder, heard = several.folder, several.heard
    assert {path.name for path in folder.iterdir()} == {path.name for path in one.iterdir()}
    assert heard and heard <= {"127.0.0.1", "::1"}, heard


def test_export_and_eval_by_several(several, recipe, programs, tmp_path):
    count, mesh, folder, _ = several
    out = tmp_path / "out"
    export = ["-m", "nt_jax.export", "--run", str(folder), "--out", str(out)]
    ended = Group(count, [*export, "--format", "hf,ia3,gguf"], programs).ends(5 * MINUTE)
    assert [each.code for each in ended] == [exits.DONE] * count, ended
    mine, theirs = (load_file(path / "hf/model.safetensors") for path in (out, folder / "export"))
    assert all((mine[name] == tensor).all() for name, tensor in theirs.items())
    assert {path.name for path in out.iterdir()} == {"hf", "ia3", "gguf"}
    told = [*words("eval", recipe, tmp_path / "eval", mesh=mesh), "--model", str(out / "hf")]
    ended = Group(count, told, programs).ends(10 * MINUTE)
    assert [each.code for each in ended] == [exits.DONE] * count, ended
    found, wanted = (rows(*place) for place in (
        (next((tmp_path / "eval").glob("answers-*")), "hf.jsonl"), (folder, "tuned/tuned.jsonl"),
    ))  # fmt: skip
    assert [row["answer"] for row in found] == [row["answer"] for row in wanted]


def test_a_run_whose_processes_are_killed_goes_on_with_others(one, recipe, programs, tmp_path):
    """Process 1 is killed after an epoch, then process 0 after another; one process ends it."""
    folder = tmp_path / "run"
    for which, epoch in ((1, 1), (0, 2)):
        group = Group(2, words("train", recipe, folder, 2), programs)
        state = folder / ".train.tmp" / "orbax" / f"{epoch:06d}"
        group.until(state.exists, 10 * MINUTE)
        os.kill(group.worker(which), signal.SIGKILL)
        ended = group.ends(MINUTE)
        assert [each.code for each in ended] == [exits.LOST] * 2, ended
        assert all("repeat the command" in each.last for each in ended), ended
    left = shutil.copytree(folder / ".train.tmp", tmp_path / "left")
    assert rows(left, "metrics.jsonl")
    done = alone(words("train", recipe, folder), programs)
    assert done.code == exits.DONE, done.error
    assert "resumed" in (folder / "run.json").read_text()
    same_tuning(folder, one)
    same_answers(folder, one)
