"""The one rule for sums, norms, softmaxes and losses: float32, or float64 in float64 models."""

import jax.numpy as jnp


def wide_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that arrays of `dtype` are accumulated in."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)
