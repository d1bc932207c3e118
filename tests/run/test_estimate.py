"""Expected times: they follow what costs time, and are what the demo took on an idle machine."""

import dataclasses

import pytest

from nt_jax.config.load import load_config
from nt_jax.doctor.shapes import SHAPES
from nt_jax.run.data import read_data
from nt_jax.run.estimate import stage_seconds
from nt_jax.run.work import Machine
from tests.run import small

# Seconds of the demo's stages, nothing cached, on two idle cores that multiply at 240 GFLOP/s.
DEMO = {"attribute": 202, "train": 160, "base": 45, "tuned": 45, "eval": 41}
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
    assert expected(data, "neurons.first_layer=0")["train"] > plain["train"] + 20
    assert expected(data, "tune.validation_answers=0")["train"] < plain["train"] - 20
    assert expected(data, "eval.max_new_tokens=96")["base"] > plain["base"] * 1.2
    assert expected(data, "eval.perplexity=false")["eval"] < 10
    assert expected(data, "attribution.score=integrated")["attribute"] != plain["attribute"]
    spread = expected(data, "mesh.data=8")
    assert spread["train"] < plain["train"] / 2
