"""Intervals against closed forms and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.eval.metrics import intervals

VERDICTS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=14)


@given(st.integers(1, 500), st.data())
def test_wilson_equals_its_closed_form(n, data):
    k = data.draw(st.integers(0, n))
    z, p = 1.959963984540054, k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low, high = intervals.wilson(k, n)
    assert low == pytest.approx(max(centre - half, 0.0), abs=1e-12)
    assert high == pytest.approx(min(centre + half, 1.0), abs=1e-12)
    assert low <= p <= high


def test_wilson_of_nothing_knows_nothing():
    assert intervals.wilson(0, 0) == (0.0, 1.0)


@given(VERDICTS)
def test_mcnemar_equals_counting_every_outcome(pairs):
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    changed = sum(a != b for a, b in pairs)
    gained = sum(b and not a for a, b in pairs)
    weights = [math.comb(changed, k) / 2**changed for k in range(changed + 1)]
    expected = sum(w for w in weights if w <= weights[gained] * (1 + 1e-9))
    assert intervals.mcnemar(before, after) == pytest.approx(min(expected, 1.0))


def test_mcnemar_small_change_is_noise_and_large_is_not():
    before = np.zeros(120, dtype=bool)
    after = before.copy()
    after[:3] = True
    assert intervals.mcnemar(before, after) == 0.25
    after[:60] = True
    assert intervals.mcnemar(before, after) < 1e-12
    with pytest.raises(ValueError, match="differ in number"):
        intervals.mcnemar([True], [True, False])


def test_bootstrap_is_seeded_and_near_the_normal_interval():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = intervals.bootstrap_mean(values, seed=3)
    assert (low, high) == intervals.bootstrap_mean(values, seed=3)
    assert (low, high) != intervals.bootstrap_mean(values, seed=4)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.04)
    assert high == pytest.approx(values.mean() + half, abs=0.04)


def test_bootstrap_equals_a_loop_over_every_resample():
    # 3 values: all 27 resamples are equally likely, so the quantiles are known.
    values = [0.0, 1.0, 5.0]
    means = [(a + b + c) / 3 for a in values for b in values for c in values]
    expected = np.quantile(means, [0.1, 0.9], method="inverted_cdf")
    interval = intervals.bootstrap_mean(values, resamples=20000, level=0.8)
    assert interval == pytest.approx(tuple(expected), abs=1e-9)


def test_bootstrap_keeps_the_columns_of_a_row_together():
    rows = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    low, high = intervals.bootstrap([rows], lambda means: means[0][0] + means[0][1])
    assert (low, high) == pytest.approx((1.0, 1.0))


def test_bootstrap_edge_cases():
    assert intervals.bootstrap_mean([2.5]) == (2.5, 2.5)
    with pytest.raises(ValueError, match="at least one"):
        intervals.bootstrap_mean([])


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=60))
def test_the_interval_of_a_change_holds_it(changes):
    low, high = intervals.paired_change(changes)
    assert -1 <= low < np.mean(changes) + 1e-9 and np.mean(changes) - 1e-9 < high <= 1


@given(st.integers(1, 5000))
def test_where_nothing_changed_its_interval_is_as_wide_as_wilsons(n):
    low, high = intervals.paired_change([0.0] * n)
    assert high == -low == pytest.approx(intervals.wilson(0, n)[1])


def test_of_many_changes_the_interval_is_that_of_the_bootstrap():
    changes = np.random.default_rng(2).choice([-1, 0, 1], 5000, p=[0.05, 0.92, 0.03])
    expected = intervals.bootstrap_mean(changes, resamples=20000)
    assert intervals.paired_change(changes) == pytest.approx(expected, abs=3e-4)
