"""A run that is told to choose its level in another way, and keeps the epochs it has."""

import shutil
from unittest import mock

import pytest

from nt_jax.run.epochs import ABOUT
from nt_jax.train import level, outer
from nt_jax.train.level import read_lifts
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "epochs"
    small.carry_on(settings(recipe, folder), "train")
    return folder


def settings(recipe, folder, *words: str):
    return small.settings(recipe, folder, *small.DECISION, *words)


def again(recipe, trained, folder, *words: str) -> tuple[str, int]:
    """(what a copy of the run says with these settings, how many steps it took)."""
    shutil.copytree(trained, folder)
    step = outer.Regression.step
    with mock.patch.object(outer.Regression, "step", autospec=True, side_effect=step) as steps:
        said = small.carry_on(settings(recipe, folder, *words), "train")
    return said, steps.call_count


def test_looks_that_were_made_count_with_other_lifts_and_limits(recipe, trained, tmp_path):
    """lifts.jsonl tells of the search of this run alone."""
    before = read_lifts(trained / "train")
    words = ("tune.lifts=[-0.5,0,0.5,1]", "tune.max_over_refusal=0.2")
    with mock.patch.object(level, "validate", side_effect=level.validate) as looks:
        again(recipe, trained, tmp_path / "copy", *words)
    ours = read_lifts(tmp_path / "copy" / "train")
    shared = {level.nats_of(row) for row in before} & {level.nats_of(row) for row in ours}
    assert shared and looks.call_count == len(ours) - len(shared)
    small.carry_on(settings(recipe, tmp_path / "fresh", *words), "train")
    assert ours == read_lifts(tmp_path / "fresh" / "train")


@pytest.mark.parametrize(
    "words",
    [
        ("tune.lifts=[0.25,0.75]", "tune.lift_from=0.7"),
        (
            "tune.lifts=[]",
            "tune.strengths=[0.5,1]",
            "tune.max_over_refusal=0.5",
        ),
    ],
)
def test_another_level_is_that_of_a_run_from_the_start(recipe, trained, tmp_path, words):
    said, steps = again(recipe, trained, tmp_path / "copy", *words)
    assert steps == 0 and "epochs     as before" in said
    small.carry_on(settings(recipe, tmp_path / "fresh", *words), "train")
    for name in ("neurons.csv", "lifts.jsonl", "strengths.jsonl", ABOUT):
        ours, theirs = (tmp_path / which / "train" / name for which in ("copy", "fresh"))
        assert ours.exists() == theirs.exists()
        assert not ours.exists() or ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("words", ["tune.safety_weight=0.6", "tune.validate_every=1"])
def test_whatever_epochs_depend_on_makes_them_anew(recipe, trained, tmp_path, words):
    said, steps = again(recipe, trained, tmp_path / "copy", words)
    assert steps == 2 and "as before" not in said


def test_a_damaged_tuning_is_made_again(recipe, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "damaged")
    (tmp_path / "damaged" / "train" / "metrics.jsonl").write_text("{")
    _, steps = again(recipe, tmp_path / "damaged", tmp_path / "copy", "tune.lifts=[0.25]")
    assert steps == 2
