"""Replaced weights: only they differ."""

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.models.leaves import get_leaf, with_leaves
from tests import plain
from tests.baselines import made_up
from tests.export.changes import changes

NAMES = ("blocks.mlp.down", "blocks.attn.q", "blocks.attn.v", "embed")


def shifted(lm, name: str, seed: int = 0):
    """`lm` with noise on a third of the last layer of a leaf."""
    leaf, generator = get_leaf(lm, name), np.random.default_rng(seed)
    noise = generator.standard_normal(leaf.shape) * (generator.random(leaf.shape) < 0.3)
    if name.startswith("blocks."):
        noise[:-1] = 0
    return with_leaves(
        lm, {name: (leaf.astype(jnp.float32) + noise.astype("f4")).astype(leaf.dtype)}
    )


@pytest.mark.parametrize("name", NAMES)
def test_only_the_named_leaf_is_another_array(name):
    lm = made_up.model()
    new = shifted(lm, name)
    for leaf, array in plain.leaves_of(new).items():
        assert (array is plain.leaves_of(lm)[leaf]) == (leaf != name)
    assert get_leaf(new, name) is plain.leaves_of(new)[name]


@pytest.mark.parametrize("name", NAMES)
def test_only_what_was_replaced_differs_by_its_published_name(name):
    lm = made_up.model()
    ((tensor, delta),) = changes(lm, shifted(lm, name)).items()
    assert ("layers." in tensor) == name.startswith("blocks.")
    assert 0.5 < (delta == 0).mean() < 0.9 and changes(lm, lm) == {}
