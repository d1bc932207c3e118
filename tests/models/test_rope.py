"""Rotary frequencies and rotations: known values, transformers' own, and what rotation means."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.models.config import RopeConfig
from nt_jax.models.rope import inverse_frequencies, rotary_tables, rotate

LLAMA31 = RopeConfig("llama3", 500000.0, factor=8.0, low=1.0, high=4.0, original_max=8192)
LLAMA32 = RopeConfig("llama3", 500000.0, factor=32.0, low=1.0, high=4.0, original_max=8192)
# Pairs 0, 16, 28 (kept), 29-34 (blended), 35, 63 (stretched) of LLaMA-3.1 8B, by 50-digit decimals.
GOLDEN_LLAMA31 = {
    0: 1.0, 16: 0.03760603093086393, 28: 0.003211445994752591, 29: 0.0021665707635033587,
    30: 0.0013718935677611381, 31: 0.0008567514129196321, 32: 0.0005248461609929547,
    33: 0.0003126937503840651, 34: 0.0001785078127679964, 35: 9.556212353964683e-05,
    63: 3.068925988914511e-07,
}  # fmt: skip
CASES = [
    (RopeConfig(), 64),
    (RopeConfig(theta=1e6), 128),
    (RopeConfig("linear", 10000.0, factor=4.0), 64),
    (LLAMA31, 128),
    (LLAMA32, 64),
]


# --- frequencies ---------------------------------------------------------------------------------


def test_default_frequencies_are_powers_of_the_base():
    np.testing.assert_allclose(
        inverse_frequencies(RopeConfig(), 8), [1.0, 0.1, 0.01, 0.001], rtol=1e-15
    )


def test_linear_scaling_stretches_every_wave():
    rope = RopeConfig("linear", 10000.0, factor=4.0)
    np.testing.assert_allclose(
        inverse_frequencies(rope, 8), [0.25, 0.025, 0.0025, 0.00025], rtol=1e-15
    )


def test_llama3_keeps_short_waves_blends_some_and_stretches_long_ones():
    found = inverse_frequencies(LLAMA31, 128)
    plain = inverse_frequencies(RopeConfig(theta=500000.0), 128)
    # LLaMA-3.1 8B: waves below 2048 positions are kept, those above 8192 are 8 times as long.
    np.testing.assert_array_equal(found[:29], plain[:29])
    np.testing.assert_allclose(found[35:], plain[35:] / 8, rtol=1e-15)
    pairs = list(GOLDEN_LLAMA31)
    np.testing.assert_allclose(found[pairs], list(GOLDEN_LLAMA31.values()), rtol=1e-13)


@pytest.mark.parametrize(("rope", "head_dim"), CASES)
def test_frequencies_equal_those_of_transformers(rope, head_dim):
    np.testing.assert_allclose(
        inverse_frequencies(rope, head_dim), torch_rotary(rope, head_dim).inv_freq, rtol=1e-6
    )


# --- tables and rotation -------------------------------------------------------------------------


def torch_rotary(rope: RopeConfig, head_dim: int):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    fields = {"rope_type": rope.kind, "rope_theta": rope.theta}
    if rope.kind != "default":
        fields["factor"] = rope.factor
    if rope.kind == "llama3":
        fields |= {"low_freq_factor": rope.low, "high_freq_factor": rope.high}
        fields["original_max_position_embeddings"] = rope.original_max
    config = transformers.LlamaConfig(
        head_dim=head_dim, max_position_embeddings=131072, rope_parameters=fields
    )
    return LlamaRotaryEmbedding(config)


@pytest.mark.parametrize(("rope", "head_dim"), CASES)
def test_rotation_equals_that_of_transformers(rope, head_dim):
    rotary = torch_rotary(rope, head_dim)
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    position_BT = np.array([[0, 1, 2, 90], [3, 50, 7, 8]], np.int32)
    x_BTNH = np.random.default_rng(0).standard_normal((2, 4, 3, head_dim)).astype(np.float32)
    theirs = torch.from_numpy(x_BTNH).transpose(1, 2)
    cos, sin = rotary(theirs, torch.from_numpy(position_BT).long())
    expected, _ = apply_rotary_pos_emb(theirs, theirs, cos, sin)
    tables = rotary_tables(jnp.asarray(position_BT), rope, head_dim, jnp.float32)
    found = rotate(jnp.asarray(x_BTNH), *tables)
    np.testing.assert_allclose(found, expected.transpose(1, 2).numpy(), atol=5e-5)
    np.testing.assert_allclose(found[0, 0], x_BTNH[0, 0], rtol=1e-6)  # position 0 turns nothing


def test_tables_are_formed_in_float32_even_for_bfloat16():
    position_BT = jnp.array([[1000, 1001]], jnp.int32)
    exact, _ = rotary_tables(position_BT, RopeConfig(), 8, jnp.float32)
    rounded, _ = rotary_tables(position_BT, RopeConfig(), 8, jnp.bfloat16)
    assert rounded.dtype == jnp.bfloat16
    # bfloat16 could not tell position 1000 from 1001: only the result may be rounded to its 8 bits
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=2**-8)


def test_float64_tables_are_exact_to_the_last_bits(x64):
    cos, sin = rotary_tables(jnp.array([[37]], jnp.int32), RopeConfig(), 4, jnp.float64)
    angles = [37 * 1.0, 37 * 0.01]
    np.testing.assert_allclose(cos[0, 0], [math.cos(a) for a in angles * 2], rtol=1e-14)
    np.testing.assert_allclose(sin[0, 0], [math.sin(a) for a in angles * 2], rtol=1e-14)


@given(
    query=st.integers(0, 60),
    key=st.integers(0, 60),
    shift=st.integers(0, 60),
    case=st.sampled_from([RopeConfig(), CASES[2][0], LLAMA31]),
    seed=st.integers(0, 999),
)
def test_only_the_distance_of_two_tokens_counts(query, key, shift, case, seed):
    """A product of rotated vectors depends on the difference of their positions, norms stay."""
    q_H, k_H = np.random.default_rng(seed).standard_normal((2, 8)).astype(np.float32)

    def turned(x_H, position):
        tables = rotary_tables(jnp.array([[position]], jnp.int32), case, 8, jnp.float32)
        return np.asarray(rotate(jnp.asarray(x_H)[None, None, None], *tables))[0, 0, 0]

    here = turned(q_H, query) @ turned(k_H, key)
    there = turned(q_H, query + shift) @ turned(k_H, key + shift)
    np.testing.assert_allclose(here, there, atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(turned(q_H, query)), np.linalg.norm(q_H), rtol=1e-5)
