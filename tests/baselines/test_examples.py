"""Examples that fit together, and thresholds against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.baselines.examples import Examples, best_threshold
from nt_jax.errors import DataError

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=12)


def accuracy(harmful, harmless, threshold: float) -> float:
    caught = sum(score > threshold for score in harmful) / len(harmful)
    return (caught + sum(score <= threshold for score in harmless) / len(harmless)) / 2


@given(SCORES, SCORES)
def test_no_threshold_does_better(harmful, harmless):
    threshold, found = best_threshold(np.array(harmful), np.array(harmless))
    assert found == pytest.approx(accuracy(harmful, harmless, threshold))
    tried = [accuracy(harmful, harmless, half / 2) for half in range(-12, 13)]
    assert found == pytest.approx(max(tried))


def test_of_equally_good_thresholds_the_widest_gap_wins():
    harmful, harmless = np.array([0.5, 0.9, 1.0]), np.array([0.0, 0.1, 0.6])
    # between .1 and .5: 3 of 3 and 2 of 3; between .6 and .9: 2 of 3 and 3 of 3, a narrower gap
    threshold, found = best_threshold(harmful, harmless)
    assert (threshold, found) == (pytest.approx(0.3), pytest.approx(5 / 6))


def test_where_nothing_separates_every_row_passes():
    threshold, found = best_threshold(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    assert (threshold, found) == (2.0, 0.5)


@pytest.mark.parametrize("harmful", [[], [np.nan]])
def test_scores_that_are_missing_or_not_finite_are_refused(harmful):
    with pytest.raises(DataError, match="needs finite scores"):
        best_threshold(np.array(harmful), np.array([0.0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refusals": [[1]]}, "harmful has 2 prompts, but Examples.refusals has 1 answers"),
        ({"answers": []}, "harmless has 1 prompts, but Examples.answers has 0 answers"),
        ({"harmless": [[]]}, "Examples.harmless is empty, or holds a row without tokens"),
        ({"harmful": [], "refusals": []}, "Examples.harmful is empty"),
    ],
)
def test_examples_that_do_not_fit_together_are_refused(change, message):
    good = {"harmful": [[3], [4]], "refusals": [[5], [6]], "harmless": [[7]], "answers": [[8]]}
    with pytest.raises(DataError, match=message):
        Examples(**good | change)
