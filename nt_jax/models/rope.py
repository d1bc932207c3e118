"""Rotary position frequencies: default, linear and llama3. B batch, T tokens, H head dim."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nt_jax.models.config import RopeConfig
from nt_jax.models.precision import wide_dtype


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """Float64 [H/2] angle per position of each rotary pair, scaled as `rope.kind` says."""
    plain = 1.0 / rope.theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if rope.kind == "default":
        return plain
    if rope.kind == "linear":
        return plain / rope.factor
    # llama3: long waves are stretched by `factor`, short ones kept, those between are blended.
    wavelength = 2.0 * math.pi / plain
    blend = (rope.original_max / wavelength - rope.low) / (rope.high - rope.low)
    blend = np.clip(blend, 0.0, 1.0)
    return (1.0 - blend) * plain / rope.factor + blend * plain


def rotary_tables(
    position_BT: Int[Array, "B T"], rope: RopeConfig, head_dim: int, dtype: jnp.dtype
) -> tuple[Float[Array, "B T H"], Float[Array, "B T H"]]:
    """(cos, sin), each [B, T, H] in `dtype`; angles are formed in float32 (float64 under x64)."""
    wide = wide_dtype(dtype)
    frequency_H = jnp.asarray(inverse_frequencies(rope, head_dim), wide)
    angle_BTH = position_BT.astype(wide)[:, :, None] * frequency_H[None, None]
    angle_BTH = jnp.concatenate([angle_BTH, angle_BTH], axis=-1)
    return jnp.cos(angle_BTH).astype(dtype), jnp.sin(angle_BTH).astype(dtype)


def rotate(
    x_BTNH: Float[Array, "B T N H"], cos_BTH: Float[Array, "B T H"], sin_BTH: Float[Array, "B T H"]
) -> Float[Array, "B T N H"]:
    """`x_BTNH` with each (first half, second half) pair of H turned by its angle."""
    first, second = jnp.split(x_BTNH, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return x_BTNH * cos_BTH[:, :, None] + turned * sin_BTH[:, :, None]
