"""Which settings and inputs repeat which stages of a run."""

from unittest import mock

import pytest

from nt_jax.run import pipeline, preflight
from nt_jax.rundir import RunDirectory
from tests.run import small
from tests.run.small import TUNED

pytestmark = pytest.mark.xdist_group("run")


READS = {
    "seed=1": {*small.STAGES} - {"base"},
    "model.dtype=bfloat16": {*small.STAGES},
    "model.frozen=int8": {*small.STAGES},
    "neurons.safety=9": {"select", *TUNED},
    "attribution.steps=3": {"attribute", "select", *TUNED},
    "attribution.score=gradient": {"attribute", "select", *TUNED},
    "tune.epochs=9": TUNED,
    "tune.answer_tokens=5": {"answers", "attribute", "select", *TUNED},
    "tune.target=opening": {"answers", "attribute", "select", *TUNED},
    "tune.metric_requests=8": TUNED,
    "tune.validation_answers=8": TUNED,
    "export.dtype=float32": {"export", "report"},
    "export.strength=0.5": {"export", "tuned", "eval", "report"},
    "eval.max_new_tokens=2": {"base", "tuned", "eval", "report"},
    "eval.judges=[phrases, guard:x]": {"eval", "report"},
    "eval.kl=false": {"eval", "report"},
    "data.safety_targets=given": {*small.STAGES} - {"base"},
    "data.safety_targets=self": {*small.STAGES} - {"base"},
    "data.system_prompt=Be brief.": {*small.STAGES} - {"base"},
    "eval.system_prompt=Be brief.": {"base", "tuned", "eval", "report"},
    "model.thinking=true": {*small.STAGES},
    "name=other": {"report"},
    "eval.batch_size=8": set(),
    "mesh.model=2": set(),
    "run_dir=elsewhere": set(),
}


HASHES = {"weights": "w", "data": "d", "tests": "t", "measuring": "m", "score": "s"}


def keys(config, **other: str) -> dict[str, str]:
    """The key of each stage, where what lies outside hashes to HASHES and `other`."""
    table = pipeline.stage_table(config, RunDirectory(config.folder), *[mock.Mock()] * 4)
    return pipeline.stage_keys(config, table, HASHES | other)


def test_the_folders_that_are_looked_at_before_any_work_are_those_of_the_stages(recipe, tmp_path):
    assert {*keys(small.settings(recipe, tmp_path))} == {*preflight.STAGES}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in small.STAGES if before[name] != after[name]}


@pytest.mark.parametrize("change", READS)
def test_a_changed_setting_repeats_the_stages_that_read_it(recipe, tmp_path, change):
    before = keys(small.settings(recipe, tmp_path))
    after = keys(small.settings(recipe, tmp_path, change))
    assert changed(before, after) == READS[change]


SLOPES_READ = {
    "neurons.first_layer=1": {"attribute", "select", *TUNED},
    "attribution.steps=3": set(),
    "attribution.answer_tokens=5": set(),
    "attribution.score=integrated": {"attribute", "select", *TUNED},
    "tune.metric_requests=12": {"attribute", "select", *TUNED},
    "tune.token_decay=0.5": TUNED,
    "tune.local_fraction=0.5": {"attribute", "select", *TUNED},
    "tune.sounds_harmful_fraction=0.25": {"attribute", "select", *TUNED},
    "tune.answer_tokens=5": {"answers", "attribute", "select", *TUNED},
    "neurons.safety=9": {"select", *TUNED},
    "tune.metric_damping=0.1": TUNED,
    "tune.meta_lr=0.7": TUNED,
    "tune.step_prompts=[1, 2]": TUNED,
    "tune.lift_from=0.5": TUNED,
    "tune.opening=Never": {"answers", "attribute", "select", *TUNED},
}


@pytest.mark.parametrize("change", SLOPES_READ)
def test_slopes_are_measured_anew_where_a_setting_changes_them(recipe, tmp_path, change):
    before = keys(small.settings(recipe, tmp_path, *small.DECISION))
    after = keys(small.settings(recipe, tmp_path, *small.DECISION, change))
    assert changed(before, after) == SLOPES_READ[change]


@pytest.mark.parametrize(
    ("words", "room"),
    [
        # Validation's own length, which no setting says: nothing reads attribution's.
        ((*small.DECISION, "attribution.answer_tokens=500"), (32, "")),
        ((*small.DECISION, "tune.validation_answers=0"), (4, "tune.answer_tokens")),
        (("attribution.answer_tokens=500",), (500, "attribution.answer_tokens")),
        ((*small.DECISION, "tune.answer_tokens=99"), (99, "tune.answer_tokens")),
    ],
)
def test_room_is_checked_for_all_that_is_written(recipe, tmp_path, monkeypatch, words, room):
    asked = []
    monkeypatch.setattr(preflight, "check_prompts", lambda *rest: asked.append(rest[-2:]))
    config = small.settings(recipe, tmp_path, *words)
    preflight.read_inputs(config)
    assert asked == [room]


@pytest.mark.parametrize("name", ["weights", "data"])
def test_other_weights_or_data_repeat_every_stage(recipe, tmp_path, name):
    config = small.settings(recipe, tmp_path)
    before, after = keys(config), keys(config, **{name: "other"})
    assert before.keys() == set(small.STAGES) and not before.items() & after.items()


def test_other_test_prompts_repeat_the_answers_to_them(recipe, tmp_path):
    config = small.settings(recipe, tmp_path)
    repeated = changed(keys(config), keys(config, tests="other"))
    assert repeated == {"base", "tuned", "eval", "report"}


def test_another_file_of_an_own_score_attributes_anew(recipe, tmp_path):
    config = small.settings(recipe, tmp_path)
    repeated = changed(keys(config), keys(config, score="other"))
    assert repeated == {"attribute", "select", *TUNED}


def test_another_judge_or_scorer_at_the_same_path_measures_anew(recipe, tmp_path):
    config = small.settings(recipe, tmp_path)
    assert changed(keys(config), keys(config, measuring="other")) == {"eval", "report"}


def test_the_stages_stand_in_their_order(recipe, tmp_path):
    assert tuple(keys(small.settings(recipe, tmp_path))) == small.STAGES
