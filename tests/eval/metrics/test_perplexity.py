import math

import numpy as np
import pytest

from nt_jax.eval.metrics import perplexity as metric
from nt_jax.eval.metrics.perplexity import perplexity, perplexity_row
from nt_jax.eval.metrics.result import Measurements


def test_uniform_guessing_has_the_perplexity_of_the_vocabulary():
    scores = np.array([[n * math.log(50), n] for n in (3, 10, 1)])
    assert perplexity(scores) == pytest.approx(50)


def test_long_answers_count_by_their_tokens():
    scores = np.array([[0.0, 30], [10 * math.log(2), 10]])
    assert perplexity(scores) == pytest.approx(2 ** (10 / 40))


def test_interval_holds_the_value_and_shrinks_with_answers():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 40, 400)
    scores = np.stack([tokens * rng.normal(1.5, 0.3, 400), tokens], axis=1)
    many, few = (perplexity_row("d", "base", scores[:n]) for n in (400, 40))
    for row in (many, few):
        assert row.low < row.value < row.high
    assert many.high - many.low < few.high - few.low
    assert (many.metric, many.n, many.judge) == ("perplexity", 400, None)


def test_rows_are_per_set_and_model_and_name_the_scorer():
    values = {"alpaca": {"base": [[2 * math.log(3), 2]], "tuned": [[math.log(5), 1]]}}
    scores = {"perplexity": {"values": values, "by": ["a/scorer", "f" * 64]}}
    rows = metric.rows(Measurements(scores=scores))
    assert [(row.dataset, row.model) for row in rows] == [("alpaca", "base"), ("alpaca", "tuned")]
    assert [row.value for row in rows] == pytest.approx([3, 5])
    assert {(row.judge, row.judge_sha256) for row in rows} == {("a/scorer", "f" * 64)}
    assert metric.rows(Measurements()) == []
