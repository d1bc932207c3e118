"""What the attribution report says about scores, against closed forms and brute force."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.attribution import diagnostics
from tests import plain

LINE = np.arange(12.0).reshape(3, 4)


def test_rank_correlation_knows_order_only():
    assert diagnostics.rank_correlation(LINE, np.exp(LINE)) == pytest.approx(1)
    assert diagnostics.rank_correlation(LINE, -LINE) == pytest.approx(-1)
    swapped = LINE.copy()
    swapped[0, :2] = swapped[0, 1::-1]
    # Spearman: 1 - 6 sum d^2 / n (n^2 - 1), two neurons one rank off.
    assert diagnostics.rank_correlation(LINE, swapped) == pytest.approx(1 - 6 * 2 / (12 * 143))
    assert math.isnan(diagnostics.rank_correlation(LINE, np.zeros_like(LINE)))


def test_correlation_between_examples_is_the_mean_over_pairs():
    noise = np.random.default_rng(0).normal(size=(3, 3, 4))
    pairs = [diagnostics.rank_correlation(noise[a], noise[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert diagnostics.between_examples(noise) == pytest.approx(np.mean(pairs))
    assert math.isnan(diagnostics.between_examples(noise[:1]))


def test_overlap_of_the_best():
    assert diagnostics.overlap(LINE, LINE, 5) == 1
    assert diagnostics.overlap(LINE, -LINE, 6) == 0
    assert diagnostics.overlap(LINE, -LINE, 8) == pytest.approx(4 / 8)


def test_the_cumulative_share_counts_positive_scores_only():
    share = diagnostics.cumulative_share(np.array([[1.0, -5.0], [6.0, 3.0]]))
    np.testing.assert_allclose(share, [0.6, 0.9, 1.0, 1.0])
    assert diagnostics.neurons_for(0.5, np.array([[1.0, -5.0], [6.0, 3.0]])) == 1
    assert diagnostics.neurons_for(0.7, np.array([[1.0, -5.0], [6.0, 3.0]])) == 2
    np.testing.assert_array_equal(diagnostics.cumulative_share(-LINE), np.zeros(12))
    assert diagnostics.neurons_for(0.5, -LINE) == 12  # nothing is positive, and there are no more


def test_the_summary_of_two_examples():
    alpha = np.stack([LINE, LINE + 1])
    found = diagnostics.summarise(alpha, np.stack([LINE, -LINE]), 3)
    assert found["examples"] == 2
    assert found["between_examples"] == pytest.approx(-1)
    assert found["between_weightings"] == pytest.approx(0)
    assert found["best_in_both_weightings"] == pytest.approx(0.5)


def test_how_much_of_the_scores_the_chosen_neurons_hold():
    found = diagnostics.concentration(LINE, np.array([11, 9, -2]))
    assert found["share_of_chosen"] == pytest.approx((11 + 9) / 66)
    assert found["neurons_for_half"] == 4  # 11 + 10 + 9 + 8 = 38 of 66
    assert diagnostics.concentration(-LINE, np.zeros(0))["share_of_chosen"] == 0


def test_promoted_tokens_are_the_head_of_the_normed_column():
    lm = plain.random_model(plain.CONFIG, jnp.float32)
    module = lm.module()
    down_LFD = np.asarray(module.blocks.mlp.down[...])
    table_VD = module.embed[...] if module.head is None else module.head[...].T
    layer_N, index_N = np.array([0, 1, 1]), np.array([3, 0, 5])
    found = diagnostics.promoted_tokens(lm, layer_N, index_N, np.array([1.0, -0.5, 0.0]), 4)
    for row, layer, index, sign in zip(found, layer_N, index_N, (1, -1, 1), strict=True):
        logits_V = np.asarray(table_VD) @ (
            down_LFD[layer, index] * np.asarray(module.final_norm[...])
        )
        assert row.tolist() == np.argsort(-sign * logits_V, kind="stable")[:4].tolist()
