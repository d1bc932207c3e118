"""Which neurons are chosen: counts, the overlap rule, ties, aggregation, the random control."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.attribution.select import aggregate, random_neurons, ranking, select
from nt_jax.errors import ConfigError


def flat(neurons, width: int, safe: bool) -> list[int]:
    """layer * F + index of the neurons of one set, in their order."""
    chosen = neurons.is_safety_P == safe
    return (neurons.layer_P[chosen] * width + neurons.index_P[chosen]).tolist()


@st.composite
def problems(draw, largest: int = 24):
    """(safety_LF, utility_LF, safety, utility); small whole scores, so that ties are common."""
    layers, width = draw(st.integers(1, 4)), draw(st.integers(1, largest // 4))
    total = layers * width
    scores = st.lists(st.integers(-3, 3), min_size=total, max_size=total)
    tables = [np.array(draw(scores), np.float32).reshape(layers, width) for _ in range(2)]
    safety = draw(st.integers(0, total))
    return *tables, safety, draw(st.integers(0, total - safety))


# --- select --------------------------------------------------------------------------------------


@given(problems())
def test_counts_are_exact_and_sets_disjoint(problem):
    safety_LF, utility_LF, safety, utility = problem
    neurons, shared = select(safety_LF, utility_LF, safety=safety, utility=utility)
    width = safety_LF.shape[1]
    safe, useful = flat(neurons, width, True), flat(neurons, width, False)
    assert (len(safe), len(useful)) == (safety, utility) and len(neurons) == safety + utility
    assert len({*safe, *useful}) == safety + utility
    assert neurons.is_safety_P.tolist() == [True] * safety + [False] * utility
    top = [set(ranking(table)[:k]) for table, k in ((safety_LF, safety), (utility_LF, utility))]
    assert shared == len(top[0] & top[1])
    if not shared:
        assert (set(safe), set(useful)) == (top[0], top[1])
    for table, chosen in ((safety_LF, safe), (utility_LF, useful)):
        scores = table.ravel()[chosen]
        assert (np.diff(scores) <= 0).all()  # best first
        for one, after in itertools.pairwise(chosen):  # and ties by number
            assert one < after or table.ravel()[one] > table.ravel()[after]


@given(problems(largest=8))
def test_the_overlap_rule_against_every_possible_choice(problem):
    """Exactly one pair of disjoint sets leaves nobody a justified claim, and it is the chosen one.

    A set may claim a neuron that it ranks above one of its own, if the neuron is in neither set,
    or sits in the other set but ranks higher in this one (safety wins ties of rank).
    """
    safety_LF, utility_LF, safety, utility = problem
    total = safety_LF.size
    rank_safe, rank_useful = (np.argsort(ranking(t)) for t in (safety_LF, utility_LF))

    def claimed(mine, others, mine_rank, other_rank, wins_ties) -> bool:
        worst = max((mine_rank[n] for n in mine), default=-1)
        for neuron in set(range(total)) - mine:
            if mine_rank[neuron] < worst:
                better = mine_rank[neuron] < other_rank[neuron] + wins_ties
                if neuron not in others or better:
                    return True
        return False

    stable = []
    for safe in map(set, itertools.combinations(range(total), safety)):
        for useful in map(set, itertools.combinations(set(range(total)) - safe, utility)):
            if claimed(safe, useful, rank_safe, rank_useful, wins_ties=True):
                continue
            if not claimed(useful, safe, rank_useful, rank_safe, wins_ties=False):
                stable.append((safe, useful))
    neurons, _ = select(safety_LF, utility_LF, safety=safety, utility=utility)
    width = safety_LF.shape[1]
    assert stable == [(set(flat(neurons, width, True)), set(flat(neurons, width, False)))]


def test_a_shared_neuron_goes_where_it_ranks_higher():
    safety_LF = np.array([[9.0, 8, 7, 6, 5, 0]])
    utility_LF = np.array([[1.0, 9, 0, 8, 7, 6]])
    neurons, shared = select(safety_LF, utility_LF, safety=2, utility=2)
    # neuron 1 is second for safety and first for utility; safety takes its next best instead
    assert (flat(neurons, 6, True), flat(neurons, 6, False), shared) == ([0, 2], [1, 3], 1)


def test_safety_wins_a_tie_of_ranks():
    scores_LF = np.array([[3.0, 2, 1]])
    neurons, shared = select(scores_LF, scores_LF, safety=1, utility=1)
    assert (flat(neurons, 3, True), flat(neurons, 3, False), shared) == ([0], [1], 1)


def test_neurons_are_compared_over_all_layers():
    safety_LF, utility_LF = np.zeros((2, 3, 4), np.float32)
    safety_LF[2, 1], safety_LF[0, 3], utility_LF[1, 2] = 5, 4, 3
    neurons, _ = select(safety_LF, utility_LF, safety=2, utility=1)
    assert neurons.layer_P.tolist() == [2, 0, 1] and neurons.index_P.tolist() == [1, 3, 2]
    assert neurons.layer_P.dtype == neurons.index_P.dtype == np.int32


def test_more_neurons_than_the_model_has_are_refused():
    scores_LF = np.zeros((2, 5))
    with pytest.raises(ConfigError, match=r"neurons.safety=7 .*neurons.utility=4 .* the 10 "):
        select(scores_LF, scores_LF, safety=7, utility=4)
    neurons, _ = select(scores_LF, scores_LF, safety=7, utility=3)
    assert sorted(flat(neurons, 5, True) + flat(neurons, 5, False)) == list(range(10))


# --- aggregate and the control -------------------------------------------------------------------


def test_every_example_has_the_same_say():
    quiet, loud = np.array([[0.0, 1, -2]]), np.array([[1000.0, 0, 0]])
    np.testing.assert_allclose(aggregate(np.stack([quiet, loud])), [[0.5, 0.25, -0.5]])


def test_an_example_without_any_score_has_none():
    one = np.array([[0.0, 1, -2]])
    np.testing.assert_allclose(aggregate(np.stack([one, 0 * one])), [[0, 0.25, -0.5]])


@given(
    scores=st.lists(st.integers(-9, 9), min_size=12, max_size=12),
    factors=st.tuples(*[st.sampled_from([0.5, 1.0, 8.0, 1024.0])] * 2),
)
def test_the_loudness_of_an_example_does_not_matter(scores, factors):
    score_ELF = np.array(scores, np.float64).reshape(2, 2, 3)
    scaled_ELF = score_ELF * np.array(factors)[:, None, None]  # powers of two: exact
    np.testing.assert_array_equal(aggregate(score_ELF), aggregate(scaled_ELF))
    assert np.abs(aggregate(score_ELF)).max() <= 1


@given(safety=st.integers(0, 10), utility=st.integers(0, 10), seed=st.integers(0, 99))
def test_the_random_control_has_the_same_counts(safety, utility, seed):
    neurons = random_neurons(4, 5, safety=safety, utility=utility, seed=seed)
    again = random_neurons(4, 5, safety=safety, utility=utility, seed=seed)
    chosen = flat(neurons, 5, True) + flat(neurons, 5, False)
    assert chosen == flat(again, 5, True) + flat(again, 5, False)
    assert neurons.is_safety_P.sum() == safety and len(set(chosen)) == safety + utility
    assert all(0 <= neuron < 20 for neuron in chosen)


def test_seeds_draw_different_neurons():
    draws = [random_neurons(4, 50, safety=5, utility=5, seed=seed) for seed in range(5)]
    assert len({tuple(flat(neurons, 50, True)) for neurons in draws}) == 5


@pytest.mark.parametrize("first_layer", [0, 1, 2])
def test_no_neuron_below_the_first_layer_is_taken(first_layer):
    draw = np.random.default_rng(0)
    scores = draw.standard_normal((2, 3, 4))
    found, _ = select(*scores, safety=2, utility=2, first_layer=first_layer)
    alone, _ = select(*scores[:, first_layer:], safety=2, utility=2)
    np.testing.assert_array_equal(found.layer_P, alone.layer_P + first_layer)
    np.testing.assert_array_equal(found.index_P, alone.index_P)
    control = random_neurons(3, 4, safety=2, utility=2, seed=0, first_layer=first_layer)
    assert (
        control.layer_P.min() >= first_layer
        and len(set(zip(control.layer_P, control.index_P, strict=True))) == 4
    )
    with pytest.raises(ConfigError, match=f"first_layer={3 + first_layer} leaves none"):
        select(*scores, safety=1, utility=1, first_layer=3 + first_layer)
    if first_layer:
        with pytest.raises(
            ConfigError, match=rf"neurons of this model from layer {first_layer} on"
        ):
            select(*scores, safety=6, utility=6, first_layer=first_layer)
