"""A model with some weights replaced, and what to change in its checkpoint for that."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from jax import Array

from nt_jax.models.keymap import rules_for, to_hf
from nt_jax.models.transformer import LanguageModel


def leaf_names(lm: LanguageModel) -> list[str]:
    """The names of `leaf_axes`, in the order of the leaves of `lm.frozen`."""
    paths = jax.tree_util.tree_leaves_with_path(lm.frozen)
    return [".".join(str(key.key) for key in path[:-1]) for path, _ in paths]  # the last is .value


def get_leaf(lm: LanguageModel, name: str) -> Array:
    """One stacked leaf of the frozen weights, e.g. "blocks.mlp.down" [L, F, D]."""
    return jax.tree.leaves(lm.frozen)[leaf_names(lm).index(name)]


def with_leaves(lm: LanguageModel, leaves: Mapping[str, Array]) -> LanguageModel:
    """`lm` with the named leaves in place of its own; all others are shared, not copied."""
    old, structure = jax.tree.flatten(lm.frozen)
    new = [leaves.get(name, leaf) for name, leaf in zip(leaf_names(lm), old, strict=True)]
    return dataclasses.replace(lm, frozen=jax.tree.unflatten(structure, new))


def changes(before: LanguageModel, after: LanguageModel) -> dict[str, np.ndarray]:
    """HF tensor name -> after - before, float32 in HF layout, of each tensor that differs.

    For nt_jax.models.export_changes. Leaves that the two models share are not looked at.
    """
    rules, found = {rule.ours: rule for rule in rules_for(before.config)}, {}
    pairs = zip(
        leaf_names(before), jax.tree.leaves(before.frozen), jax.tree.leaves(after.frozen),
        strict=True,
    )  # fmt: skip
    for name, old, new in pairs:
        if new is old:
            continue
        rule = rules[name]
        old, new = ((x if rule.stacked else x[None]) for x in (old, new))
        for layer, tensor in enumerate(rule.hf_names(before.config.layers)):
            delta = np.asarray(new[layer], np.float32) - np.asarray(old[layer], np.float32)
            if delta.any():
                found[tensor] = to_hf(delta, rule, before.config.sizes)
    return found
