"""A run directory that is also somebody's project: nothing of theirs is replaced or deleted."""

import pytest

from nt_jax.errors import RunError
from nt_jax.run.export import run_factors
from nt_jax.rundir import RunDirectory, Stage
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")
KEY = "0" * 64
THEIRS = {
    "train/data.csv": "a", "report/thesis.tex": "b", ".env.tmp": "c", ".work.tmp/w": "d",
    ".ssh.old/id": "e", ".notes.old": "f", "notes.txt": "g",
}  # fmt: skip


@pytest.fixture
def project(tmp_path):
    for name, text in THEIRS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def untouched(folder) -> bool:
    return all((folder / name).read_text() == text for name, text in THEIRS.items())


def stage(name: str) -> Stage:
    return Stage(name, (), (), lambda folder: str((folder / "x").write_text("x")))


def test_a_folder_of_a_stages_name_is_not_replaced(project):
    for _ in range(2):  # the second finds the lock of the first
        with RunDirectory(project) as run:
            run.carry(stage("select"), KEY)
            with pytest.raises(RunError, match="train is no stage of a run"):
                run.carry(stage("train"), KEY)
    assert untouched(project) and (project / "select" / "DONE").exists()


def test_an_empty_folder_may_be(tmp_path):
    (tmp_path / "train").mkdir()
    with RunDirectory(tmp_path) as run:
        run.carry(stage("train"), KEY)
    assert (tmp_path / "train" / "DONE").exists()


def test_a_run_says_so_before_any_work(recipe, project):
    with pytest.raises(RunError, match=r"train is no stage of a run .* Move it away"):
        small.carry_on(small.settings(recipe, project))
    assert untouched(project)
    assert not {".lock", "run.json", "answers"} & {path.name for path in project.iterdir()}


def test_a_sweep_is_no_run(recipe, tmp_path):
    """Nor is one begun in its folder, which would take the sweep's place there."""
    (tmp_path / "cells" / "safety-5").mkdir(parents=True)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(RunError, match=r"holds a sweep\. Name one of its cells, .*/cells/NAME"):
        run_factors(tmp_path)
    with pytest.raises(RunError, match="holds a sweep, which a run would replace"):
        small.carry_on(small.settings(recipe, tmp_path))
    assert (tmp_path / "run.json").read_text() == "{}"


def test_what_a_killed_stage_left_is_still_cleared(tmp_path):
    partial = tmp_path / ".train.tmp"
    partial.mkdir()
    (partial / ".nt_jax").touch()  # as a kill leaves it, which nothing can clean up after
    (partial / "half").write_text("x")
    with RunDirectory(tmp_path):
        assert not partial.exists()
