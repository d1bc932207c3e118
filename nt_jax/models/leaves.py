"""Leaves of a model by name: read, and replaced without a copy of the others."""

import dataclasses
from collections.abc import Mapping

import jax
from jax import Array

from nt_jax.models.transformer import LanguageModel


def leaf_names(lm: LanguageModel) -> list[str]:
    """The names of `leaf_axes`, in the order of the leaves of `lm.frozen`."""
    paths = jax.tree_util.tree_leaves_with_path(lm.frozen)
    return [".".join(str(key.key) for key in path[:-1]) for path, _ in paths]  # the last is .value


def get_leaf(lm: LanguageModel, name: str) -> Array:
    """One leaf of the frozen weights, of the layers that run: "blocks.mlp.down" is [L, F, D]."""
    leaf = jax.tree.leaves(lm.frozen)[leaf_names(lm).index(name)]
    below = len(leaf) - lm.config.layers if name.startswith("blocks.") else 0
    return leaf[below:] if below else leaf


def with_leaves(lm: LanguageModel, leaves: Mapping[str, Array]) -> LanguageModel:
    """`lm` with the named leaves in place of its own; all others are shared, not copied."""
    old, structure = jax.tree.flatten(lm.frozen)
    new = [leaves.get(name, leaf) for name, leaf in zip(leaf_names(lm), old, strict=True)]
    return dataclasses.replace(lm, frozen=jax.tree.unflatten(structure, new))
