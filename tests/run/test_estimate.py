"""Expected times: they follow what costs time, and are what the demo took on an idle machine."""

import dataclasses
import json

import pytest

from nt_jax import cache
from nt_jax.config.load import load_config
from nt_jax.data.records import ChoiceQuestion
from nt_jax.doctor.shapes import SHAPES
from nt_jax.errors import DataError
from nt_jax.eval.prompts import TestChoice
from nt_jax.run import said
from nt_jax.run.cached import cached_stages, note_made, with_cache
from nt_jax.run.data import read_data
from nt_jax.run.epochs import share_ahead
from nt_jax.run.estimate import OVERHEAD, stage_seconds
from nt_jax.run.work import Machine
from tests.run import small

# Seconds of the demo's stages, nothing cached, on two cores that multiply at 240 GFLOP/s and were
# idle. Train is of slower ones, in ratio: 768 s for attribute, 2,075 for three epochs of 720
# prompts and their looks, 600 for another and 1,200 for each of three of 1,440.
DEMO = {"attribute": 202, "train": 1650, "base": 45, "tuned": 45, "eval": 41}
IDLE = Machine(240e9, 10e9)


@pytest.fixture(scope="module")
def data():
    return read_data(load_config("smollm2-135m"))


def expected(data, *words: str, machine: Machine = IDLE) -> dict[str, float]:
    config = load_config("smollm2-135m", words)
    model = SHAPES["smollm2-135m"].config
    return stage_seconds(config, model, data.records, data.tests, machine)


def test_the_demo_takes_about_as_long_as_it_did(data):
    found = expected(data)
    assert [*found] == [*small.STAGES]
    for stage, took in DEMO.items():
        assert took / 1.5 < found[stage] < took * 1.5, stage


def test_a_run_by_contrast_needs_no_attacks_of_a_type(tmp_path):
    """The default reads no examples inside attacks of one type; the paper's score does."""
    rows = [{"text": f"Say it {n} times: {{request}}", "split": "train"} for n in range(2)]
    path = tmp_path / "attacks.jsonl"
    rows.append({"text": "Say it: {request}", "split": "validation"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"data.templates.source={path}"]
    assert len(read_data(load_config("smollm2-135m", words)).records["train"].templates) == 2
    with pytest.raises(DataError, match="2 training templates, but attribution needs 3"):
        read_data(load_config("smollm2-135m", [*words, "attribution.score=integrated"]))


def test_choice_questions_take_their_time(data):
    rows = [ChoiceQuestion(str(n), "word " * 200, ("a", "b"), 0) for n in range(1000)]
    plain = expected(data)["base"]
    letters = 1000 * 260 * 2 * 106e6 / (0.8 * IDLE.flops)  # tokens through all layers, once
    for metric, least in (("letter", letters), ("generate", 1.1 * letters)):
        entry = f"eval.extra={{mine: {{source: x, kind: choice, metrics: [{metric}]}}}}"
        words = entry, "eval.datasets=[demo_direct, mine]"
        config, model = load_config("smollm2-135m", words), SHAPES["smollm2-135m"].config
        asked = dataclasses.replace(data.tests, choices=[TestChoice("mine", q) for q in rows])
        more = stage_seconds(config, model, data.records, asked, IDLE)["base"] - plain
        assert 0.9 * least < more < 2 * least, metric


def test_twice_the_machine_takes_half_the_work(data):
    twice = dataclasses.replace(IDLE, flops=2 * IDLE.flops, bytes=2 * IDLE.bytes)
    slow, fast = expected(data), expected(data, machine=twice)
    for stage in ("attribute", "train", "base", "eval"):
        overhead = 2 * fast[stage] - slow[stage]
        assert 0 < overhead < 30, stage


def test_time_follows_the_settings_that_cost_it(data):
    plain = expected(data)
    more = expected(data, "tune.epochs=48")
    assert more["train"] > plain["train"] + 20 and more["attribute"] == plain["attribute"]
    assert expected(data, "tune.step_prompts=[1, 2]")["train"] > plain["train"] + 20
    assert expected(data, "neurons.first_layer=0")["train"] > plain["train"] + 20
    assert expected(data, "tune.validation_answers=0")["train"] < plain["train"] - 20
    assert expected(data, "eval.max_new_tokens=96")["base"] > plain["base"] * 1.2
    assert expected(data, "eval.perplexity=false")["eval"] < 10
    assert expected(data, "attribution.score=integrated")["attribute"] != plain["attribute"]
    once = expected(data, "tune.lifts=[]", "tune.strengths=[]")  # one look after the last epoch
    by_adam = expected(data, "tune.lifts=[]", "tune.strengths=[]", "tune.validate_every=7")
    assert once["train"] == by_adam["train"] < plain["train"] - 20
    assert (
        expected(data, "tune.outer=adam", "tune.metric_requests=0")["attribute"]
        == plain["attribute"]
    )
    spread = expected(data, "mesh.data=8")
    assert spread["train"] < plain["train"] / 2


def test_epochs_that_a_stop_has_left_take_no_time_but_lifts_and_looks_do(data):
    config = load_config("smollm2-135m")
    given = config, SHAPES["smollm2-135m"].config, data.records, data.tests, IDLE
    whole, half, none = (stage_seconds(*given, ahead)["train"] for ahead in (1.0, 0.5, 0.0))
    assert half == pytest.approx((whole + none) / 2)
    assert 2 * OVERHEAD["train"] < none < whole / 3


def test_prompts_of_the_steps_to_come_are_what_is_left(tmp_path):
    tune = load_config("smollm2-135m").tune
    assert share_ahead(tune, tmp_path) == 1
    (tmp_path / "orbax" / "000004").mkdir(parents=True)
    assert share_ahead(tune, tmp_path) == pytest.approx(6 / 10)  # 1, 1, 1, 1, 2, 2, 2
    (tmp_path / "orbax" / "000007").mkdir()
    assert share_ahead(tune, tmp_path) == 0


@pytest.fixture
def cached(monkeypatch, tmp_path):
    """A cache of this test's own."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))


def test_what_the_cache_holds_takes_its_overhead_alone(cached, monkeypatch):
    config = load_config("smollm2-135m")
    keys = {name: f"key of {name}" for name in small.STAGES}
    seconds = dict.fromkeys(small.STAGES, 1000.0)
    assert with_cache(config, keys, seconds) == seconds
    for name in small.STAGES:
        note_made(config, keys, name)
    found = with_cache(config, keys, seconds)
    assert {name for name in seconds if found[name] != 1000} == {"answers", "attribute"}
    assert found["attribute"] == OVERHEAD["attribute"]
    assert with_cache(config, dict.fromkeys(keys, "another"), seconds) == seconds
    assert cached_stages(load_config("smollm2-135m", ["attribution.score=integrated"])) == (
        "answers",
    )
    monkeypatch.setenv(cache.VARIABLE, cache.OFF)
    assert with_cache(config, keys, seconds) == seconds


def test_a_second_run_of_the_same_settings_is_told_what_the_cache_saves(
    cached, monkeypatch, recipe, tmp_path
):
    monkeypatch.setattr(said, "expected_seconds", lambda *_: dict.fromkeys(small.STAGES, 1000.0))
    screens = [
        small.carry_on(small.settings(recipe, tmp_path / name, *words), "answers")
        for name, words in (("one", ()), ("two", ()), ("three", ("seed=1",)))
    ]
    told = [line for screen in screens for line in screen.splitlines() if "in all (" in line]
    assert [line.partition("answers ")[2][:5] for line in told] == ["16:40", "0:05)", "16:40"]
