"""CAVGAN's losses in closed form, its networks by hand, and its choice of layer and threshold."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nt_jax.baselines import cavgan
from nt_jax.baselines.cavgan import (
    DEPTH,
    TEMPLATE,
    Cavgan,
    CavganOptions,
    Discriminator,
    Generator,
    NormedLinear,
    discriminator_loss,
    fit_cavgan,
    fresh_gan,
    gan_step,
    generator_loss,
    layer_at,
    train_gan,
)
from nt_jax.baselines.examples import best_threshold
from nt_jax.baselines.states import gather_states
from nt_jax.errors import DataError
from tests.baselines import made_up

WIDTH = 8
pytestmark = pytest.mark.usefixtures("mixed_dtypes")


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def dense(network) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weights, bias) of each layer, float64."""
    return [
        (np.float64(layer.kernel[...]), np.float64(layer.bias[...])) for layer in network.layers
    ]


def run(layers, h_BD) -> np.ndarray:
    """An MLP with ReLU between its layers."""
    for weight, bias in layers[:-1]:
        h_BD = np.maximum(h_BD @ weight + bias, 0)
    return h_BD @ layers[-1][0] + layers[-1][1]


def states(seed: int, rows: int, shift: float = 0.0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((rows, WIDTH))
    return (noise + shift).astype(np.float32)


# --- the parts ------------------------------------------------------------------------------------


def test_losses_are_binary_cross_entropies():
    harmless, harmful, disguised = (states(seed, 6)[:, 0] * 3 for seed in range(3))
    p = [sigmoid(x) for x in (harmless, harmful, disguised)]  # P(harmful)
    expected = -np.log(1 - p[0]).mean() - np.log(p[1]).mean() - np.log(p[2]).mean()
    assert float(discriminator_loss(harmless, harmful, disguised)) == pytest.approx(expected, 1e-5)
    expected = -np.log(1 - p[2]).mean()
    assert float(generator_loss(disguised)) == pytest.approx(expected, 1e-5)


def test_networks_are_plain_mlps_of_the_stated_sizes():
    judge, forger = Discriminator(WIDTH, nnx.Rngs(0)), Generator(WIDTH, nnx.Rngs(1))
    h_BD = states(3, 5)
    shapes = [weight.shape for weight, _ in dense(judge)]
    assert shapes == [(WIDTH, 128), (128, 64), (64, 32), (32, 1)]
    np.testing.assert_allclose(judge(h_BD), run(dense(judge), h_BD)[:, 0], rtol=1e-4, atol=1e-6)
    assert [weight.shape for weight, _ in dense(forger)] == [(WIDTH, WIDTH)] * 4
    np.testing.assert_allclose(forger(h_BD), run(dense(forger), h_BD), rtol=1e-4, atol=1e-6)


def test_columns_have_the_learned_length_whatever_their_direction():
    layer = NormedLinear(WIDTH, nnx.Rngs(2))
    np.testing.assert_allclose(layer.kernel, layer.direction[...], rtol=1e-5)  # as initialised
    wanted = np.linspace(0.5, 2, WIDTH).astype("f4")
    layer.length[...] = jnp.asarray(wanted)
    before = np.asarray(layer.kernel)
    np.testing.assert_allclose(np.sqrt((before**2).sum(axis=0)), wanted, rtol=1e-5)
    layer.direction[...] = layer.direction[...] * 7.0
    np.testing.assert_allclose(layer.kernel, before, rtol=1e-5)

    def squared(direction):
        return jnp.square(
            states(4, 3) @ (direction * wanted / jnp.linalg.norm(direction, axis=0))
        ).sum()

    with jax.numpy_rank_promotion("allow"):  # no slope along the direction itself
        slope = jax.grad(squared)(layer.direction[...])
    along = (np.asarray(slope) * np.asarray(layer.direction[...])).sum(axis=0)
    assert np.abs(along).max() < 1e-3 * np.abs(slope).max() and np.abs(slope).max() > 1e-3


def test_a_step_moves_each_network_down_its_own_loss():
    gan, *graphs = fresh_gan(WIDTH, seed=5)
    harmless, harmful, hidden = states(6, 4), states(7, 4, 1.0), states(8, 2, 1.0)
    judge, forger = (
        nnx.merge(g, s) for g, s in zip(graphs, (gan.discriminator, gan.generator), strict=True)
    )
    new, losses = jax.jit(gan_step, static_argnames="graphs")(
        gan, harmless, harmful, hidden, np.float32(1e-3), graphs=tuple(graphs)
    )
    layers = dense(judge)
    disguised = hidden + run(dense(forger), hidden)

    def loss_d(layers) -> float:
        p = [sigmoid(run(layers, h)[:, 0]) for h in (harmless, harmful, disguised)]
        return float(-np.log(1 - p[0]).mean() - np.log(p[1]).mean() - np.log(p[2]).mean())

    assert float(losses[0]) == pytest.approx(loss_d(layers), rel=1e-4)
    moved = dense(nnx.merge(graphs[0], new.discriminator))
    for place in range(4):  # Adam's first step is the sign of the slope
        weight = layers[place][0]
        index = np.unravel_index(np.abs(moved[place][0] - weight).argmax(), weight.shape)
        slopes = []
        for side in (1e-5, -1e-5):
            nudged = [(w.copy(), b) for w, b in layers]
            nudged[place][0][index] += side
            slopes.append(loss_d(nudged))
        slope = (slopes[0] - slopes[1]) / 2e-5
        step = (moved[place][0] - weight)[index]
        assert abs(slope) > 1e-6 and step == pytest.approx(-1e-3 * np.sign(slope), rel=0.02)
    # G answers the new D
    expected = -np.log(1 - sigmoid(run(moved, disguised)[:, 0])).mean()
    assert float(losses[1]) == pytest.approx(expected, rel=1e-4)
    forged = hidden + run(dense(nnx.merge(graphs[1], new.generator)), hidden)
    assert -np.log(1 - sigmoid(run(moved, forged)[:, 0])).mean() < expected


def test_separable_states_are_told_apart_and_the_generator_learns_to_disguise():
    harmless, harmful = states(9, 60, -1.0), states(10, 60, 1.0)
    rows = cavgan._rows(60, 60, CavganOptions(epochs=15))
    assert [r.shape for r in rows] == [(90, 10), (90, 10), (90, 2)]
    assert sorted(rows[0][:6].ravel()) == list(range(60))  # every pass sees every row once
    gan, *graphs = fresh_gan(WIDTH, seed=0)
    trained, loss_S2 = train_gan(gan, harmless, harmful, rows, np.float32(1e-3), tuple(graphs))
    judge = nnx.merge(graphs[0], trained.discriminator)
    # D shares the harmless side with disguised states, so it is the threshold that separates
    threshold, _ = best_threshold(*(np.asarray(judge(h)) for h in (harmful, harmless)))
    assert (np.asarray(judge(states(11, 200, 1.0))) > threshold).mean() > 0.95
    assert (np.asarray(judge(states(12, 200, -1.0))) > threshold).mean() < 0.05
    assert np.isfinite(loss_S2).all()
    seen = [
        float(judge(harmful + nnx.merge(graphs[1], state)(harmful)).mean())
        for state in (gan.generator, trained.generator)
    ]
    assert seen[1] < seen[0] - 1
    again, _ = train_gan(gan, harmless, harmful, rows, np.float32(1e-3), tuple(graphs))
    jax.tree.map(np.testing.assert_array_equal, trained.generator, again.generator)


# --- on a model -----------------------------------------------------------------------------------


def marked(seed: int, harmful: int = 12, harmless: int = 12):
    """Examples whose harmful prompts end in one token and harmless ones in another."""
    plain = made_up.examples(seed, harmful, harmless)
    return dataclasses.replace(
        plain,
        harmful=[[*ids, 11] for ids in plain.harmful],
        harmless=[[*ids, 29] for ids in plain.harmless],
    )


def fitted(**changes):
    lm = made_up.model("llama3")
    options = CavganOptions(epochs=20, **changes)
    return lm, fit_cavgan(lm, lm.ones_LF, marked(40), marked(50), options)


def test_the_layer_and_threshold_are_the_best_on_validation():
    lm, fit = fitted(layers=(0, 1))
    assert [row["layer"] for row in fit.table] == [0, 1]
    ranks = [(row["balanced_accuracy"], -row["bce"]) for row in fit.table]
    assert fit.layer == int(np.argmax([rank == max(ranks) for rank in ranks]))
    held = marked(50)
    guess = []
    for prompts in (held.harmful, held.harmless):
        state_RD = gather_states(lm, lm.ones_LF, prompts)[:, 0, fit.layer]
        layers = dense(nnx.merge(fit.graph, fit.discriminator))
        guess.append(sigmoid(run(layers, (state_RD - fit.mean_D) / fit.deviation_D)[:, 0]))
    threshold, accuracy = best_threshold(*guess)
    assert (fit.threshold, fit.table[fit.layer]["balanced_accuracy"]) == (
        pytest.approx(threshold, abs=1e-4),
        accuracy,
    )
    assert accuracy > 0.9
    bce = (-np.log(guess[0]).mean() - np.log(1 - guess[1]).mean()) / 2
    assert fit.table[fit.layer]["bce"] == pytest.approx(bce, rel=1e-3)


def test_a_flagged_message_is_asked_again_under_the_template():
    lm, fit = fitted(layers=(1,))
    test = marked(60, 4, 5)
    prompts = [*test.harmful, *test.harmless]
    texts = [f"text {{message}} {n}" for n in range(9)]
    asked = Cavgan(fit, lambda text: [ord(c) for c in text]).prepare(lm, lm.ones_LF, prompts, texts)
    state_RD = gather_states(lm, lm.ones_LF, prompts)[:, 0, 1]
    layers = dense(nnx.merge(fit.graph, fit.discriminator))
    guess_R = sigmoid(run(layers, (state_RD - fit.mean_D) / fit.deviation_D)[:, 0])
    np.testing.assert_array_equal(asked.flagged_R, guess_R > fit.threshold)
    assert asked.flagged_R[:4].sum() >= 3 and asked.flagged_R[4:].sum() <= 1
    assert asked.steer_RLD is None
    before, after = TEMPLATE.split("{message}")
    for text, ids, flagged, old in zip(texts, asked.prompts, asked.flagged_R, prompts, strict=True):
        assert ids == ([ord(c) for c in before + text + after] if flagged else old)


def test_the_ports_layer_at_the_same_depth_of_other_models():
    """The port reads what block 28 gets: the state after layer 27, counted from 0."""
    assert [layer_at(DEPTH, n) for n in (32, 28, 48, 30, 2, 1)] == [27, 23, 41, 25, 1, 0]


def test_the_candidates_start_in_the_middle_and_must_exist():
    _, fit = fitted()
    assert [row["layer"] for row in fit.table] == [1]
    for layers in ((2,), ()):
        with pytest.raises(DataError, match="choose among 0 to 1"):
            fitted(layers=layers)
