"""Matrices kept as int8: how far they are off, and a model of them beside one of the same numbers.

The oracle is the same model with its matrices made wide once, as a whole, in numpy.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.data.batching import pad_left
from nt_jax.errors import ConfigError
from nt_jax.mesh import make_mesh
from nt_jax.models.int8 import CHANNELS, LEVELS, dequantised, quantised, step_of
from nt_jax.models.leaves import get_leaf, with_leaves
from nt_jax.models.transformer import LanguageModel, leaf_axes, leaf_dtype, logits
from tests import plain, tiny

ROWS = [[5, 9, 3], [7], [21, 4, 4, 8], [30, 1, 2, 2, 6, 11, 19]]
FAMILIES = ("llama2", "qwen2", "qwen3", "smollm2")


@functools.cache
def loaded(family: str, dtype: str = "float32", frozen: str | None = "int8", mesh=(1, 1)):
    return load_weights(str(tiny.checkpoint(family)), dtype, make_mesh(*mesh), frozen=frozen)


def widened(lm: LanguageModel, family: str) -> LanguageModel:
    """The model of the numbers that `lm` keeps as int8, all of them in its own type."""
    leaves, dtype = plain.leaves_of(lm), str(lm.dtype)
    wide = {}
    for name, channels in CHANNELS.items():
        whole, step = (np.asarray(leaves[each]) for each in (name, step_of(name)))
        ones = (1,) * (whole.ndim - 1 - len(channels))
        step = step.reshape(step.shape[0], *ones, *step.shape[1:])
        wide[name] = jnp.asarray(whole.astype(np.float32) * step, dtype)
    return with_leaves(loaded(family, dtype, None), wide)


def apart(one, other) -> float:
    """Largest difference, over the largest number."""
    return float(jnp.abs(one - other).max() / jnp.abs(other).max())


@given(st.integers(0, 2**32 - 1), st.integers(1, 2), st.floats(1e-6, 1e6))
def test_no_weight_is_off_by_more_than_half_a_step_of_its_channel(seed, channels, size):
    weight = np.random.default_rng(seed).standard_normal((6, 5, 4)).astype(np.float32)
    weight = weight * np.float32(size)
    whole, step = quantised(weight, channels)
    summed = tuple(range(3 - channels))
    most = np.abs(weight).max(axis=summed)
    assert whole.dtype == np.int8 and step.dtype == np.float32
    np.testing.assert_allclose(step, most / LEVELS, rtol=1e-6)
    error = np.abs(whole.astype(np.float64) * step - weight)
    assert (error <= 0.5 * step * (1 + 1e-5)).all()  # half of most / 127
    assert (np.abs(whole).max(axis=summed) == LEVELS).all()  # the largest one is exact
    back = dequantised(jnp.asarray(whole), jnp.asarray(step), jnp.float32)
    np.testing.assert_allclose(np.asarray(back), whole * step, rtol=1e-7)


def test_channels_of_zeros_stay_zeros():
    weight = np.zeros((3, 2), np.float32)
    weight[:, 1] = [1, -2, 0.5]
    whole, step = quantised(weight, 1)
    assert step[0] == 0 and not whole[:, 0].any() and whole[1, 1] == -LEVELS


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_of_the_layers_is_int8_and_nothing_else(family):
    lm = loaded(family)
    leaves = plain.leaves_of(lm)
    kept = {name for name, leaf in leaves.items() if leaf.dtype == jnp.int8}
    names = [name for name in leaf_axes(loaded(family, frozen=None).config) if "blocks." in name]
    assert kept == set(CHANNELS) == {n for n in names if not n.endswith(("norm", "bias"))}
    for name, leaf in leaves.items():
        assert leaf.dtype == leaf_dtype(lm.config, name, jnp.float32), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_widened_model_and_near_those_of_the_original(family, dtype):
    lm, batch = loaded(family, dtype), pad_left(ROWS, 8)
    found = logits(lm, *batch)
    assert found.dtype == jnp.float32
    assert apart(found, logits(widened(lm, family), *batch)) < (
        1e-6 if dtype == "float32" else 0.02
    )
    original = logits(loaded(family, dtype, None), *batch)
    assert 1e-4 < apart(found, original) < 0.03


@pytest.mark.parametrize("mesh", [(4, 2), (1, 8), (2, 2, 2)])
@pytest.mark.parametrize("family", ["llama2", "qwen2"])
def test_eight_devices_hold_and_compute_the_same(family, mesh):
    lm, batch = loaded(family, mesh=mesh), pad_left([*ROWS, *ROWS], 8)
    assert apart(jax.jit(logits)(lm, *batch), logits(loaded(family), *batch)) < 1e-5


def test_a_matrix_of_int8_is_neither_read_nor_changed_by_its_name():
    lm = loaded("qwen2")
    for ask in (get_leaf, lambda lm, name: with_leaves(lm, {name: np.zeros(1)})):
        with pytest.raises(ConfigError, match=r"model.frozen = int8: 'blocks.mlp.down' is kept"):
            ask(lm, "blocks.mlp.down")
    np.testing.assert_array_equal(get_leaf(lm, "embed"), plain.leaves_of(lm)["embed"])
    assert dataclasses.replace(lm.config, int8=False) == loaded("qwen2", frozen=None).config
