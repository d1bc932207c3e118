"""Frozen matrices of the layers kept as int8, with one step a channel of what they give.

A weight is its whole number times the step of its channel. Nothing learns these matrices, so no
gradient is needed of them: slopes go through what they are multiplied with. Each is made wide again
just before its product, on the way back once more, so that the stack of all layers never is.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from nt_jax.models.precision import wide_dtype

# Matrix -> letters of the channels that it gives, which come last in it: those of its steps.
CHANNELS = {
    "blocks.attn.q": "NH",
    "blocks.attn.k": "KH",
    "blocks.attn.v": "KH",
    "blocks.attn.o": "D",
    "blocks.mlp.gate": "F",
    "blocks.mlp.up": "F",
    "blocks.mlp.down": "D",
}
LEVELS = 127  # the largest whole number; -128 is left out, so that both signs are alike


def step_of(name: str) -> str:
    """What the leaf with the steps of a matrix is called."""
    return f"{name}_step"


def quantised(weight: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """(int8 whole numbers, float32 steps of the last `channels` axes) of one matrix.

    No weight is off by more than half a step, which is a 254th of its channel's largest. A channel
    of zeros has a step of 0.
    """
    summed = tuple(range(weight.ndim - channels))
    wide = weight.astype(np.float32)
    step = np.abs(wide).max(axis=summed) / np.float32(LEVELS)
    whole = np.rint(wide / np.where(step > 0, step, 1))
    return whole.clip(-LEVELS, LEVELS).astype(np.int8), step


def dequantised(whole: Array, step: Array, dtype: jnp.dtype) -> Array:
    """The matrix in `dtype`, computed in float32 or wider; `step` is of its last axes."""
    wide = wide_dtype(dtype)
    step = step.reshape((1,) * (whole.ndim - step.ndim) + step.shape)
    return (whole.astype(wide) * step.astype(wide)).astype(dtype)


def matrix(weight: nnx.Param, step: nnx.Param | None, dtype: jnp.dtype) -> Array:
    """A matrix as it is multiplied with, in `dtype` where it is kept as int8."""
    return weight[...] if step is None else dequantised(weight[...], step[...], dtype)


def product(form: str, x: Array, weight: nnx.Param, step: nnx.Param | None) -> Array:
    """`einsum(form, x, matrix)`; one kept as int8 gets its steps once it has been multiplied.

    Up to 256 whole numbers are exact in bfloat16, too. Their wide copy is no more than an input of
    the product, and is not stored for the way back (`over_layers`).
    """
    if step is None:
        return jnp.einsum(form, x, weight[...])
    whole = jnp.einsum(form, x, weight[...].astype(x.dtype))
    wide, given = wide_dtype(x.dtype), step[...]
    given = given.reshape((1,) * (whole.ndim - given.ndim) + given.shape)
    return (whole.astype(wide) * given.astype(wide)).astype(x.dtype)
