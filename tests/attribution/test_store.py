"""Scores and neurons survive the disk; what is damaged: tests/test_advice.py."""

import datasets
import numpy as np

from nt_jax.attribution.score import Attribution
from nt_jax.attribution.select import select
from nt_jax.attribution.store import (
    load_attribution,
    load_neurons,
    load_scores,
    neuron_rows,
    save_attribution,
    save_neurons,
)
from nt_jax.models.neurons import NeuronSet

SHAPE = (2, 6)


def example(seed: int) -> Attribution:
    alpha_LF, standard_LF, v_q_LF, v_pq_LF = (
        np.random.default_rng(seed).normal(size=(4, *SHAPE)).astype("f4")
    )
    return Attribution(alpha_LF, standard_LF, "alpha", v_q_LF, v_pq_LF, alpha_LF[:, 0], 0.5)


def test_an_attribution_comes_back_as_it_was(tmp_path):
    saved = example(0)
    save_attribution(tmp_path / "safety-000.npz", saved)
    loaded = load_attribution(tmp_path / "safety-000.npz")
    for name in ("alpha_LF", "standard_LF", "v_q_LF", "v_pq_LF", "start_L"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    assert loaded.end == 0.5 and loaded.weighting == "alpha"
    np.testing.assert_array_equal(loaded.score_LF, saved.alpha_LF)
    assert [path.name for path in tmp_path.iterdir()] == ["safety-000.npz"]


def test_scores_are_the_mean_of_each_set_every_example_alike(tmp_path):
    for name, seeds in (("safety", (1, 2)), ("utility", (3,))):
        for place, seed in enumerate(seeds):
            save_attribution(tmp_path / f"{name}-{place:03d}.npz", example(seed))
    one, two, three = (example(n).score_LF / np.abs(example(n).score_LF).max() for n in (1, 2, 3))
    scores = load_scores(tmp_path)
    np.testing.assert_allclose(scores["safety"], (one + two) / 2, rtol=1e-6)
    np.testing.assert_allclose(scores["utility"], three, rtol=1e-6)


def test_neurons_come_back_in_the_order_of_their_factors(tmp_path):
    scores = {"safety": example(1).score_LF, "utility": example(2).score_LF}
    neurons, _ = select(scores["safety"], scores["utility"], safety=3, utility=4)
    save_neurons(tmp_path, neuron_rows(neurons, scores))
    loaded, rows = load_neurons(tmp_path / "neurons.csv")
    for name in ("layer_P", "index_P", "is_safety_P"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(neurons, name))
    assert [row["rank"] for row in rows] == [1, 2, 3, 1, 2, 3, 4]
    for row in rows:
        assert row["score"] == scores[row["set"]][row["layer"], row["index"]]
    assert datasets.Dataset.from_parquet(str(tmp_path / "neurons.parquet")).to_list() == rows


def test_neurons_that_were_given_in_another_order_are_ranked_by_score():
    score_LF = np.array([[0.0, 5.0, 11.0], [5.0, 2.0, 3.0]])
    given = NeuronSet(
        np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 1]), np.array([True, True, True, 0, 0])
    )
    rows = neuron_rows(given, {"safety": score_LF, "utility": -score_LF})
    assert [(row["index"], row["rank"]) for row in rows] == [(0, 3), (1, 2), (2, 1), (0, 2), (1, 1)]
