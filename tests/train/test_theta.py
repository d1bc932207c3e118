"""Factors go to their neurons and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nt_jax.attribution.select import random_neurons
from nt_jax.mesh import make_mesh, sharding
from nt_jax.models.neurons import NeuronSet
from nt_jax.train.theta import initial_theta, place, scatter
from tests import plain

LAYERS, WIDTH = 3, 8


@st.composite
def neuron_sets(draw) -> NeuronSet:
    safety, utility = draw(st.integers(0, 12)), draw(st.integers(0, 12))
    seed = draw(st.integers(0, 999))
    return random_neurons(LAYERS, WIDTH, safety=safety, utility=utility, seed=seed)


@settings(max_examples=30)
@given(neurons=neuron_sets(), seed=st.integers(0, 99))
def test_each_factor_comes_back_from_its_neuron_and_all_others_stay_one(neurons, seed):
    theta_P = np.random.default_rng(seed).normal(1, 1, len(neurons)).astype(np.float32)
    scale_LF = np.asarray(scatter(jnp.asarray(theta_P), neurons, jnp.ones((LAYERS, WIDTH))))
    np.testing.assert_array_equal(scale_LF[neurons.layer_P, neurons.index_P], theta_P)
    scale_LF = scale_LF.copy()
    scale_LF[neurons.layer_P, neurons.index_P] = 1.0
    assert (scale_LF == 1.0).all() and scale_LF.dtype == np.float32


@settings(max_examples=30)
@given(neurons=neuron_sets())
def test_a_factors_gradient_is_that_of_its_neuron(neurons):
    weight_LF = np.random.default_rng(0).standard_normal((LAYERS, WIDTH)).astype(np.float32)
    ones_LF = jnp.ones((LAYERS, WIDTH))
    slope = jax.grad(lambda t_P: (scatter(t_P, neurons, ones_LF) * weight_LF).sum())
    slope_P = slope(jnp.ones(len(neurons), jnp.float32))
    np.testing.assert_array_equal(slope_P, weight_LF[neurons.layer_P, neurons.index_P])


@settings(max_examples=30)
@given(neurons=neuron_sets())
def test_safety_factors_start_high_and_utility_factors_low(neurons):
    theta_P = initial_theta(neurons, 1.2, 0.9)
    assert theta_P.dtype == jnp.float32
    expected_P = np.where(neurons.is_safety_P, np.float32(1.2), np.float32(0.9))
    np.testing.assert_array_equal(theta_P, expected_P)


def test_float64_factors_for_float64_models(x64):
    neurons = random_neurons(LAYERS, WIDTH, safety=2, utility=2, seed=0)
    theta_P = initial_theta(neurons, 1.2, 0.9, jnp.float64)
    ones_LF = plain.random_model(dtype=jnp.float64).ones_LF
    assert theta_P.dtype == ones_LF.dtype == scatter(theta_P, neurons, ones_LF).dtype == jnp.float64
    assert float(theta_P[0]) == 1.2


def test_a_placed_set_is_the_same_set_as_jax_arrays():
    neurons = random_neurons(LAYERS, WIDTH, safety=3, utility=4, seed=1)
    placed = place(neurons)
    for name in ("layer_P", "index_P", "is_safety_P"):
        assert isinstance(getattr(placed, name), jax.Array)
        np.testing.assert_array_equal(getattr(placed, name), getattr(neurons, name))
        assert getattr(placed, name).dtype == getattr(neurons, name).dtype
    assert len(placed) == len(neurons) == 7 and len(jax.tree.leaves(placed)) == 3


def test_the_scale_is_scattered_where_its_neurons_lie():
    neurons = random_neurons(LAYERS, WIDTH, safety=5, utility=5, seed=2)
    theta_P = np.arange(10, dtype=np.float32)
    alone_LF = scatter(jnp.asarray(theta_P), neurons, jnp.ones((LAYERS, WIDTH)))
    split_LF = jax.device_put(np.ones((LAYERS, WIDTH), np.float32), sharding(make_mesh(2, 4), "LF"))
    np.testing.assert_array_equal(jax.jit(scatter)(theta_P, place(neurons), split_LF), alone_LF)
