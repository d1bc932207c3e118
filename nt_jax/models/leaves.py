"""Leaves of a model by name: read, and replaced without a copy of the others.

Both know published heads only: where the mesh lays heads out anew (nt_jax/models/grouping.py), a
leaf is gathered from its copies, and put into all of them.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nt_jax.errors import ConfigError
from nt_jax.mesh import put, sharding
from nt_jax.models.grouping import to_mesh, to_published
from nt_jax.models.int8 import CHANNELS
from nt_jax.models.transformer import LanguageModel, leaf_axes


def leaf_names(lm: LanguageModel) -> list[str]:
    """The names of `leaf_axes`, in the order of the leaves of `lm.frozen`."""
    paths = jax.tree_util.tree_leaves_with_path(lm.frozen)
    return [".".join(str(key.key) for key in path[:-1]) for path, _ in paths]  # the last is .value


def get_leaf(lm: LanguageModel, name: str) -> Array:
    """One leaf of the frozen weights, of the layers that run: "blocks.mlp.down" is [L, F, D].

    Raises a ConfigError for a matrix that is kept as int8.
    """
    _check_wide(lm, name)
    leaf = jax.tree.leaves(lm.frozen)[leaf_names(lm).index(name)]
    below = len(leaf) - lm.config.layers if name.startswith("blocks.") else 0
    leaf = leaf[below:] if below else leaf
    return to_published(leaf, leaf_axes(lm.config)[name], lm.config, lm.mesh.shape["model"])


def with_leaves(lm: LanguageModel, leaves: Mapping[str, Array | np.ndarray]) -> LanguageModel:
    """`lm` with the named leaves in place of its own; all others are shared, not copied.

    A numpy array is placed on the mesh, and so is a leaf whose heads are laid out anew. Raises a
    ConfigError for a matrix that is kept as int8.
    """
    for name in leaves:
        _check_wide(lm, name)
    old, structure = jax.tree.flatten(lm.frozen)
    names = leaf_names(lm)
    new = [
        _placed(lm, name, leaves[name]) if name in leaves else own
        for name, own in zip(names, old, strict=True)
    ]
    return dataclasses.replace(lm, frozen=jax.tree.unflatten(structure, new))


def _check_wide(lm: LanguageModel, name: str) -> None:
    if lm.config.int8 and name in CHANNELS:
        raise ConfigError(
            f"model.frozen = int8: '{name}' is kept as int8 and can neither be read nor changed by "
            "its name (adapters, methods of compare). Leave model.frozen out."
        )


def _placed(lm: LanguageModel, name: str, leaf: Array | np.ndarray) -> Array:
    axes = leaf_axes(lm.config)[name]
    laid = to_mesh(leaf, axes, lm.config, lm.mesh.shape["model"])
    if laid is leaf and isinstance(leaf, Array):
        return leaf
    return put(laid, sharding(lm.mesh, axes))


@jax.jit
def bits_hash(leaf: Array) -> Array:
    """A number (uint32) made of the bits of each element and its place, on any mesh.

    Each element's own goes through the mixer of MurmurHash3, and they are summed modulo 2^32.
    """
    width = 8 * leaf.dtype.itemsize
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{width}")
    bits = bits ^ (bits >> 32) if width > 32 else bits
    mixed = bits.astype(jnp.uint32)
    for axis in range(leaf.ndim):
        stride = math.prod(leaf.shape[axis + 1 :]) * 0x9E3779B1 % 2**32
        place = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        mixed += place * jnp.uint32(stride)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return mixed.sum(dtype=jnp.uint32)
