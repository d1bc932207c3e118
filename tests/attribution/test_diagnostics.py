"""What the attribution report says about scores, against closed forms and brute force."""

import math

import numpy as np
import pytest

from nt_jax.attribution import diagnostics as compare

LINE = np.arange(12.0).reshape(3, 4)


def test_rank_correlation_knows_order_only():
    assert compare.rank_correlation(LINE, np.exp(LINE)) == pytest.approx(1)
    assert compare.rank_correlation(LINE, -LINE) == pytest.approx(-1)
    swapped = LINE.copy()
    swapped[0, :2] = swapped[0, 1::-1]
    # Spearman: 1 - 6 sum d^2 / n (n^2 - 1), two neurons one rank off.
    assert compare.rank_correlation(LINE, swapped) == pytest.approx(1 - 6 * 2 / (12 * 143))
    assert math.isnan(compare.rank_correlation(LINE, np.zeros_like(LINE)))


def test_correlation_between_examples_is_the_mean_over_pairs():
    noise = np.random.default_rng(0).normal(size=(3, 3, 4))
    pairs = [compare.rank_correlation(noise[a], noise[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert compare.between_examples(noise) == pytest.approx(np.mean(pairs))
    assert math.isnan(compare.between_examples(noise[:1]))


def test_overlap_of_the_best():
    assert compare.overlap(LINE, LINE, 5) == 1
    assert compare.overlap(LINE, -LINE, 6) == 0
    assert compare.overlap(LINE, -LINE, 8) == pytest.approx(4 / 8)


def test_the_cumulative_share_counts_positive_scores_only():
    share = compare.cumulative_share(np.array([[1.0, -5.0], [6.0, 3.0]]))
    np.testing.assert_allclose(share, [0.6, 0.9, 1.0, 1.0])
    assert compare.neurons_for(0.5, np.array([[1.0, -5.0], [6.0, 3.0]])) == 1
    assert compare.neurons_for(0.7, np.array([[1.0, -5.0], [6.0, 3.0]])) == 2
    np.testing.assert_array_equal(compare.cumulative_share(-LINE), np.zeros(12))


def test_the_summary_of_two_examples():
    alpha = np.stack([LINE, LINE + 1])
    found = compare.summarise(alpha, np.stack([LINE, -LINE]), LINE, 3)
    assert found["examples"] == 2
    assert found["between_examples"] == pytest.approx(-1)
    assert found["between_weightings"] == pytest.approx(0)
    assert found["best_in_both_weightings"] == pytest.approx(0.5)
    assert found["share_of_chosen"] == pytest.approx((11 + 10 + 9) / 66)
    assert found["neurons_for_half"] == 4  # 11 + 10 + 9 + 8 = 38 of 66
