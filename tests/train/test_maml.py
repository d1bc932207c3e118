"""The meta-gradient is exact, the update keeps its bounds, and neither mesh nor memory matter."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nt_jax.data.packing import Row, Shape, pack_rows, shape_of
from nt_jax.mesh import row_ways, sharding
from nt_jax.models.neurons import NeuronSet
from nt_jax.train.maml import (
    MetaBatch,
    MetaOptions,
    adapt,
    gradient,
    make_optimiser,
    meta_gradient,
    meta_step,
    safety_loss,
    utility_loss,
)
from nt_jax.train.objectives import over_stretches
from nt_jax.train.theta import place, scatter
from tests import plain
from tests.train import slow

CONFIG = dataclasses.replace(plain.MESH_CONFIG, layers=2)
NEURONS = NeuronSet(
    layer_P=np.array([1, 0, 1, 0, 0, 1, 1], np.int32),
    index_P=np.array([5, 3, 20, 7, 23, 0, 11], np.int32),
    is_safety_P=np.array([True, True, True, False, False, False, False]),
)
THETA = np.array([1.2, 1.1, 1.3, 0.9, 0.8, 1.05, 0.7])
# One for all, as each is a program of its own.
OPTIMISER = make_optimiser("adam", clip_norm=1.0)
EXACT = MetaOptions(inner_lr=2.0, safety_weight=0.4, kl_weight=0.5)
CASES = {
    "K=1, printed": {},
    "K=2, descent, KL": {"inner_steps": 2, "utility_sign": "descent", "with_kl": True},
    "K=3, printed, KL": {"inner_steps": 3, "with_kl": True, "token_decay": 0.8, "remat": True},
}


SETS = ("local_safety", "local_utility", "global_safety", "global_utility")
SHAPE = Shape(stretches=4, side=1, length=16, targets=24, rows=4)


def some_rows(generator, count: int, longest: int = 6) -> list[Row]:
    def ids(most):
        return generator.integers(3, CONFIG.vocab_size, generator.integers(1, most + 1)).tolist()

    return [Row(ids(longest), ids(4), ids(4)) for _ in range(count)]


def meta_rows(seed: int = 0) -> dict[str, list[Row]]:
    generator = np.random.default_rng(seed)
    counts = dict(zip(SETS, (4, 3, 4, 4), strict=True))
    return {name: some_rows(generator, count) for name, count in counts.items()}


def packed(rows: dict[str, list[Row]], shape: Shape = SHAPE) -> MetaBatch:
    return MetaBatch(**{name: pack_rows(part, shape) for name, part in rows.items()})


def meta_batch(seed: int = 0) -> MetaBatch:
    """Sets of several stretches, one of which is often empty."""
    return packed(meta_rows(seed))


@functools.cache
def model(dtype=jnp.float32):
    return plain.random_model(CONFIG, dtype)


def options(**changes) -> MetaOptions:
    return dataclasses.replace(EXACT, **changes)


def relative(found, expected) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


jitted_gradient = jax.jit(meta_gradient)


# --- exactness, in float64 -----------------------------------------------------------------------


def central_differences(value, theta_P, step: float = 1e-3) -> np.ndarray:
    """Fourth-order central differences of a scalar function, factor by factor."""
    slope_P = np.zeros_like(theta_P)
    for place_, way_P in enumerate(step * np.eye(len(theta_P))):
        ahead, back, far, far_back = (value(theta_P + k * way_P) for k in (1, -1, 2, -2))
        slope_P[place_] = (8 * (ahead - back) - (far - far_back)) / (12 * step)
    return slope_P


@pytest.mark.parametrize("case", CASES)
def test_the_meta_gradient_is_exact_and_the_first_order_one_is_not(x64, case):
    lm, chosen = model(jnp.float64), options(**CASES[case])
    rows = meta_rows()
    batch = packed(rows)
    found_P, metrics = jitted_gradient(THETA, lm, NEURONS, batch, chosen)
    if "K=3" not in case:  # against jax.grad through jax.grad of a model and a loop of their own
        plainly = jax.value_and_grad(lambda t_P: slow.joint_loss(t_P, lm, NEURONS, rows, chosen))
        value, plain_P = jax.jit(plainly)(THETA)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-11)
        assert relative(found_P, plain_P) < 1e-9
    # against central differences of the loss itself
    loss = lambda t_P: jitted_gradient(t_P, lm, NEURONS, batch, chosen)[1]["loss"]  # noqa: E731
    expected_P = central_differences(loss, THETA)
    assert relative(found_P, expected_P) < 1e-6
    if "K=3" not in case:  # without the second order it is another vector, by far
        first = dataclasses.replace(chosen, order=1)
        first_P, of_first = jitted_gradient(THETA, lm, NEURONS, batch, first)
        share = np.linalg.norm(expected_P - first_P) / np.linalg.norm(expected_P)
        np.testing.assert_allclose(metrics["second_order"], share, rtol=1e-6)
        assert of_first["second_order"] == 0
        assert relative(first_P, expected_P) > 0.01


@pytest.mark.parametrize("sign", ["printed", "descent"])
def test_an_inner_step_is_as_long_as_it_may_be_and_its_gradient_exact(x64, sign):
    """Line 16 climbs: one batch whose gradient is long would leave nothing of the model."""
    lm, batch = model(jnp.float64), meta_batch()
    free, short = (options(utility_sign=sign, clip_norm=most) for most in (None, 1e-3))
    safe_P = np.asarray(NEURONS.is_safety_P)
    for chosen, most in ((free, np.inf), (short, 1e-3)):
        moved_P = (np.asarray(adapt(THETA, lm, NEURONS, batch, chosen)) - THETA) / EXACT.inner_lr
        lengths = [np.linalg.norm(moved_P[mine_P]) for mine_P in (safe_P, ~safe_P)]
        assert min(lengths) > 1e-3 if most == np.inf else lengths == pytest.approx([most, most])
    found_P, _ = jitted_gradient(THETA, lm, NEURONS, batch, short)
    loss = lambda t_P: jitted_gradient(t_P, lm, NEURONS, batch, short)[1]["loss"]  # noqa: E731
    assert relative(found_P, central_differences(loss, THETA)) < 1e-6
    same_P, _ = jitted_gradient(
        THETA, lm, NEURONS, batch, options(utility_sign=sign, clip_norm=1e9)
    )
    free_P, _ = jitted_gradient(THETA, lm, NEURONS, batch, free)
    np.testing.assert_array_equal(same_P, free_P)


def test_without_an_inner_loop_it_is_the_plain_gradient(x64):
    lm, rows, still = model(jnp.float64), meta_rows(), options(inner_steps=0)
    batch = packed(rows)
    plainly = jax.grad(lambda t_P: slow.joint_loss(t_P, lm, NEURONS, rows, still))
    expected_P = jax.jit(plainly)(THETA)
    for chosen in (still, options(inner_lr=0.0), options(inner_lr=0.0, order=1)):
        assert relative(jitted_gradient(THETA, lm, NEURONS, batch, chosen)[0], expected_P) < 1e-10


def test_saving_memory_changes_nothing(x64):
    lm, batch = model(jnp.float64), meta_batch()
    chosen = options(with_kl=True, inner_steps=2, utility_sign="descent")
    expected_P, expected = jitted_gradient(THETA, lm, NEURONS, batch, chosen)
    less = dataclasses.replace(chosen, remat=True)
    one = packed(meta_rows(), Shape(stretches=1, side=1, length=64, targets=40, rows=4))
    found_P, metrics = jitted_gradient(THETA, lm, NEURONS, one, less)
    assert relative(found_P, expected_P) < 1e-9
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-10)


def test_sequences_side_by_side_on_one_device_change_nothing(x64):
    lm, chosen = model(jnp.float64), options(with_kl=True, inner_steps=2, remat=True)
    expected_P, expected = jitted_gradient(THETA, lm, NEURONS, meta_batch(), chosen)
    beside = packed(meta_rows(), dataclasses.replace(SHAPE, stretches=2, side=2))
    found_P, metrics = jitted_gradient(THETA, lm, NEURONS, beside, chosen)
    assert relative(found_P, expected_P) < 1e-10
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-10)


def joint_loss(theta_P, lm, neurons, batch, options):
    adapted_P = adapt(theta_P, lm, neurons, batch, options)
    sides = ((safety_loss, batch.global_safety), (utility_loss, batch.global_utility))
    terms = [
        over_stretches(lambda b, f=loss: f(adapted_P, lm, neurons, b, options), rows)
        for loss, rows in sides
    ]
    return jax.tree.map(jnp.add, *terms)


def test_the_losses_that_are_reported_are_the_parts_of_the_sum(x64):
    lm, batch = model(jnp.float64), meta_batch()
    chosen = options(with_kl=True, inner_steps=2, utility_sign="descent")
    found_P, parts = jitted_gradient(THETA, lm, NEURONS, batch, chosen)
    utility = parts["utility_loss"] + chosen.kl_weight * parts["kl"]
    total = chosen.safety_weight * parts["safety_loss"] + (1 - chosen.safety_weight) * utility
    np.testing.assert_allclose(parts["loss"], total, rtol=1e-12)
    np.testing.assert_allclose(parts["gradient_norm"], np.linalg.norm(found_P), rtol=1e-12)
    joint, joint_parts = jax.jit(joint_loss)(THETA, lm, NEURONS, batch, chosen)
    for name, value in {"loss": joint, **joint_parts}.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-12)
    assert parts["kl"] > 0


# --- the gradient that is cheap to differentiate again -------------------------------------------


@pytest.mark.parametrize("stretches", [1, 3])
def test_a_quadratic_has_its_closed_form(x64, stretches):
    """loss = mean over rows of (t - c).A.(t - c) / 2; one step t' = t - eta A (t - mean c)."""
    generator = np.random.default_rng(0)
    half, start_P, wanted_P = (generator.standard_normal(s) for s in ((3, 3), 3, 3))
    matrix, eta = half @ half.T, 0.3
    rows = [Row([1], [c]) for c in generator.integers(3, 9, 6).tolist()]
    length = 1 + len(rows) // stretches  # what all rows share is laid down in each sequence
    rows = [dataclasses.replace(row, prompt=[1, n]) for n, row in enumerate(rows)]
    batch = pack_rows(rows, shape_of(rows, length, 1))
    assert batch.token_BT.shape[0] == stretches
    centre = np.mean([row.answer[0] for row in rows])

    def loss(theta_P, matrix, neurons, batch, options):
        centre_BR = jnp.asarray(batch.target_BQ, jnp.float64)  # one target per row
        away_BRP = theta_P[None, None] - centre_BR[:, :, None]
        per_row_BR = 0.5 * jnp.einsum("BRP,PQ,BRQ->BR", away_BRP, matrix, away_BRP)
        return (per_row_BR * jnp.asarray(batch.weight_BR, jnp.float64)).sum()

    def outer(theta_P, order):
        slope = gradient(loss, order)
        moved_P = theta_P - eta * slope(theta_P, matrix, None, batch, options())
        return 0.5 * ((moved_P - wanted_P) ** 2).sum()

    moved_P = start_P - eta * matrix @ (start_P - centre)
    second, first = (jax.jit(jax.grad(outer), static_argnums=1)(start_P, o) for o in (2, 1))
    np.testing.assert_allclose(first, moved_P - wanted_P, rtol=1e-10)
    expected_P = (np.eye(3) - eta * matrix) @ (moved_P - wanted_P)
    np.testing.assert_allclose(second, expected_P, rtol=1e-10)


# --- the update ----------------------------------------------------------------------------------


def steps(lm, count: int, chosen=EXACT, optimiser=OPTIMISER, beside: int = 1):
    """theta after each of some meta-steps on fresh batches, `beside` sequences on each device."""
    placed = sharding(lm.mesh, "")
    theta_P = jax.device_put(jnp.asarray(THETA, jnp.float32), placed)
    state, history = jax.device_put(optimiser.init(theta_P), placed), []
    for epoch in range(count):
        side = beside * row_ways(lm.mesh)
        shape = Shape(-(-SHAPE.stretches // side), side, SHAPE.length, SHAPE.targets, SHAPE.rows)
        batch = jax.device_put(packed(meta_rows(epoch), shape), sharding(lm.mesh, "SB"))
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
            theta_P, state, metrics = meta_step(
                theta_P, state, lm, place(NEURONS), batch, options=chosen, optimiser=optimiser
            )
        assert all(np.isfinite(value) for value in metrics.values())
        history.append(np.asarray(theta_P))
    return history


def test_meshes_give_the_same_factors():
    """The batches, neurons, heads and vocabulary are really split: see test_mesh.py."""
    programs, found = meta_step._cache_size(), {}
    meshes = ((1, 1), (4, 2), (2, 2, 2))  # each is compiled for half a minute
    for mesh in meshes:
        beside = 2 if mesh == (4, 2) else 1
        found[mesh] = steps(plain.random_model(CONFIG, mesh=mesh), 5, beside=beside)[-1]
        programs += 1  # the second step takes what the first one gives back as it is placed
        assert meta_step._cache_size() == programs
    for mesh in meshes[1:]:
        assert relative(found[mesh], found[1, 1]) < 1e-5, mesh
    assert np.abs(found[1, 1] - THETA).max() > 0.05


def test_factors_stay_within_their_bounds():
    chosen = options(meta_lr=0.5, factor_min=0.6, factor_max=1.4)
    history = np.stack(steps(model(), 3, chosen))
    assert history.min() == np.float32(0.6) and history.max() == np.float32(1.4)


def test_a_step_moves_against_a_clipped_gradient():
    optimiser = make_optimiser("adam", clip_norm=2.0)
    slope_P = np.array([3.0, -4.0, 0.0], np.float32)
    plain_adam = optax.scale_by_adam()
    state, plain_state = optimiser.init(slope_P), plain_adam.init(slope_P)
    for factor in (1.0, 0.1, 1.0):  # norms 5, 0.5, 5: only the middle one is not clipped
        clipped = factor * slope_P * min(1.0, 2.0 / (5.0 * factor))
        with jax.numpy_dtype_promotion("standard"):
            found, state = optimiser.update(factor * slope_P, state)
            expected, plain_state = plain_adam.update(clipped, plain_state)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    (first_P,) = steps(model(), 1, options(meta_lr=0.01))
    with jax.enable_x64(True):  # signs alone: the program is there already
        slope_P, _ = jitted_gradient(THETA, model(jnp.float64), NEURONS, meta_batch(0), EXACT)
    np.testing.assert_allclose(first_P, THETA - 0.01 * np.sign(slope_P), atol=1e-5)  # Adam's first


def test_neurons_that_were_not_picked_stay_exactly_one():
    scale_LF = np.asarray(scatter(steps(model(), 2)[-1], place(NEURONS), model().ones_LF))
    picked_LF = np.zeros(scale_LF.shape, bool)
    picked_LF[NEURONS.layer_P, NEURONS.index_P] = True
    assert (scale_LF[~picked_LF] == 1.0).all() and (scale_LF[picked_LF] != 1.0).all()


def test_one_program_serves_all_batches_and_all_numbers():
    steps(model(), 1)
    before = meta_step._cache_size()
    steps(model(), 3)
    numbers = {"inner_lr": 1.0, "meta_lr": 0.1, "safety_weight": 0.9, "kl_weight": 2.0,
               "token_decay": 0.5, "factor_min": 0.1, "factor_max": 3.0}  # fmt: skip
    for name, value in numbers.items():
        steps(model(), 1, options(**{name: value}))
    assert meta_step._cache_size() == before


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_factors_and_losses_are_float32_whatever_the_weights(dtype):
    chosen = options(with_kl=True, with_margin=True)
    shapes = jax.eval_shape(
        meta_gradient, THETA.astype(np.float32), model(dtype), NEURONS, meta_batch(), chosen
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
