"""The memory model decides the rows of a program, and says so."""

import jax.numpy as jnp
import pytest

from nt_jax.attribution import plan
from nt_jax.attribution.score import EncodedExample, Options
from nt_jax.attribution.score import plan as plan_example
from tests import plain

EXAMPLE = EncodedExample(question=[1, 2], attacked=list(range(1, 70)), answer=[3, 4, 5])


@pytest.fixture
def lm():
    return plain.random_model(plain.CONFIG, jnp.float32)


def test_little_memory_means_few_rows_and_none_means_one(lm, monkeypatch):
    each = plan.row_bytes(lm, 100, 4)
    monkeypatch.setattr(plan, "BUSY_TOKENS", {"cpu": 1000})  # else fewer rows would do
    for free, rows in ((20 * each, 10), (2 * each, 1), (0, 1)):
        monkeypatch.setattr(plan, "free_bytes", lambda n=free: n)
        found = plan.make_plan(lm, 100, 4, 40)
        assert found.rows == rows and found.bytes_taken == rows * each


def test_rows_keep_the_device_busy_but_do_not_start_below_their_layers(lm, monkeypatch):
    monkeypatch.setattr(plan, "free_bytes", lambda: 10**15)
    total = 10 * lm.config.layers
    rows = {}
    for busy in (1, 10**6):
        monkeypatch.setattr(plan, "BUSY_TOKENS", {"cpu": busy})
        rows[busy] = plan.make_plan(lm, 100, 4, total).rows
    assert rows[1] <= 10  # a layer's nodes or fewer: no work below any row's layer
    assert rows[10**6] == total


def test_the_work_of_a_program_is_counted_from_its_first_row(lm, monkeypatch):
    monkeypatch.setattr(plan, "BUSY_TOKENS", {"cpu": 1})
    layers = lm.config.layers
    one, split = plan.work(lm, 10 * layers, 4, 10 * layers), plan.work(lm, 10, 4, 10 * layers)
    head = one / (10 * layers * 4) - layers
    below = sum(range(layers))
    assert split == pytest.approx(10 * 4 * (layers * layers - below + layers * head))


def test_the_user_may_set_the_rows(lm):
    assert plan.make_plan(lm, 100, 4, 40, chunk=9).rows == 9


def test_longer_answers_prompts_and_models_take_more(lm):
    least = plan.row_bytes(lm, 100, 4)
    assert plan.row_bytes(lm, 200, 4) > least
    assert plan.row_bytes(lm, 100, 8) > 2 * least


@pytest.mark.parametrize(
    ("changes", "total"),
    [
        ({}, 5 * plain.CONFIG.layers),
        ({"path": "joint"}, 5),
    ],
)
def test_the_plan_of_an_example_counts_its_rows(lm, changes, total):
    found = plan_example(lm, EXAMPLE, Options(steps=4, answer_tokens=3, **changes))
    assert found.total == total
    assert str(found).startswith(f"{total} rows in 1 program of {total}   ")


def test_a_first_token_target_is_one_token_long(lm):
    one, three = (
        plan_example(lm, EXAMPLE, Options(steps=4, answer_tokens=3, target=target))
        for target in ("first_token", "mean_logprob")
    )
    assert three.bytes_taken > 2.9 * one.bytes_taken
