"""Theta: one learned factor per chosen neuron, and its place in the [L, F] scale."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from nt_jax.models.neurons import Factors, NeuronSet


def initial_theta(
    neurons: NeuronSet, init_safety: float, init_utility: float, dtype: DTypeLike = jnp.float32
) -> Float[Array, " P"]:
    """theta_P at the start (Algorithm 1, lines 1-6): > 1 for safety, < 1 for utility neurons."""
    return jnp.where(jnp.asarray(neurons.is_safety_P), init_safety, init_utility).astype(dtype)


def with_known(
    theta_P: Float[Array, " P"], neurons: NeuronSet, known: Factors
) -> Float[Array, " P"]:
    """theta_P of `neurons`, but the known factor of each neuron that has one, in theta_P's type."""
    found = dict(zip(_places(known.neurons), np.asarray(known.theta_P), strict=True))
    mine = zip(_places(neurons), np.asarray(theta_P), strict=True)
    return jnp.asarray([found.get(place, first) for place, first in mine], theta_P.dtype)


def scatter(theta_P: Array, neurons: NeuronSet, ones_LF: Array) -> Float[Array, "L F"]:
    """The scale of the whole model: theta at the chosen neurons, `ones_LF` elsewhere."""
    chex.assert_equal_shape([theta_P, neurons.layer_P, neurons.index_P])
    return ones_LF.at[neurons.layer_P, neurons.index_P].set(
        theta_P, unique_indices=True, mode="promise_in_bounds"
    )


def place(neurons: NeuronSet) -> NeuronSet:
    """The same set with jax arrays, ready to be an argument of a jitted step."""
    return jax.tree.map(jnp.asarray, neurons)


def _places(neurons: NeuronSet) -> list[tuple[int, int]]:
    """(layer, index) of each neuron."""
    both = (np.asarray(part).tolist() for part in (neurons.layer_P, neurons.index_P))
    return [*zip(*both, strict=True)]
