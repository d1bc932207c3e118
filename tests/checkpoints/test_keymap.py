"""The table between torch tensors and our leaves, both ways."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.checkpoints import keymap
from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.hf_config import config_from_hf
from nt_jax.models.footprint import parameters
from nt_jax.models.transformer import leaf_axes
from tests import tiny

SIZES = {"L": 2, "D": 6, "F": 5, "N": 4, "K": 2, "H": 3, "V": 7}

# Sizes of published models and their parameter counts as the hub states them.
PUBLISHED = {
    "Llama-2-7b-chat": (("llama", 32000, 4096, 11008, 32, 32, 32, 128, False), 6_738_415_616),
    "Llama-3.1-8B": (("llama", 128256, 4096, 14336, 32, 32, 8, 128, False), 8_030_261_248),
    "Llama-3.2-1B": (("llama", 128256, 2048, 8192, 16, 32, 8, 64, True), 1_235_814_400),
    "Mistral-7B-v0.3": (("mistral", 32768, 4096, 14336, 32, 32, 8, 128, False), 7_248_023_552),
    "Qwen2.5-0.5B": (("qwen2", 151936, 896, 4864, 24, 14, 2, 64, True), 494_032_768),
    "Qwen2.5-7B": (("qwen2", 152064, 3584, 18944, 28, 28, 4, 128, False), 7_615_616_512),
    "Qwen3-0.6B": (("qwen3", 151936, 1024, 3072, 28, 16, 8, 128, True), 596_049_920),
    "SmolLM2-135M": (("llama", 49152, 576, 1536, 30, 9, 3, 64, True), 134_515_008),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_of_published_models(name):
    (family, vocab, width, neurons, layers, heads, kv_heads, head_dim, tied), count = PUBLISHED[
        name
    ]
    architecture = {"llama": "Llama", "mistral": "Mistral"}.get(family, family.capitalize())
    config = config_from_hf(
        {
            "model_type": family, "architectures": [f"{architecture}ForCausalLM"],
            "vocab_size": vocab, "hidden_size": width, "intermediate_size": neurons,
            "num_hidden_layers": layers, "num_attention_heads": heads, "head_dim": head_dim,
            "num_key_value_heads": kv_heads, "tie_word_embeddings": tied, "sliding_window": None,
        },
        None,
        name,
    )  # fmt: skip
    shapes = keymap.hf_shapes(config).values()
    assert sum(math.prod(shape) for shape in shapes) == parameters(config) == count


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_table_names_every_torch_tensor_with_its_shape(family):
    state = tiny.torch_model(family).state_dict()
    config = open_checkpoint(str(tiny.checkpoint(family))).config
    expected = {name: tuple(weight.shape) for name, weight in state.items()}
    if config.tied:
        del expected["lm_head.weight"]
    assert keymap.hf_shapes(config) == expected


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_table_and_the_transformer_agree_on_the_leaves(family):
    config = open_checkpoint(str(tiny.checkpoint(family))).config
    table = {r.ours: "L" * r.stacked + r.our_axes for r in keymap.rules_for(config)}
    assert table == leaf_axes(config)
    for rule in keymap.rules_for(config):
        assert rule.our_shape(config.sizes) == tuple(config.sizes[a] for a in table[rule.ours])


def test_layouts_element_by_element():
    """Where single elements of torch's matrices end up; torch stores [out, in]."""
    rules = {rule.ours: rule for rule in keymap.RULES}

    def moved(ours: str) -> tuple[np.ndarray, np.ndarray]:
        shape = rules[ours].hf_shape(SIZES)
        weight = np.arange(np.prod(shape)).reshape(shape)
        return weight, keymap.to_ours(weight, rules[ours], SIZES)

    hf, ours = moved("blocks.attn.q")  # torch row n * H + h is head n, dim h
    assert ours.shape == (6, 4, 3) and ours[5, 2, 1] == hf[2 * 3 + 1, 5]
    hf, ours = moved("blocks.attn.k")
    assert ours.shape == (6, 2, 3) and ours[4, 1, 2] == hf[1 * 3 + 2, 4]
    hf, ours = moved("blocks.attn.o")
    assert ours.shape == (4, 3, 6) and ours[3, 1, 5] == hf[5, 3 * 3 + 1]
    hf, ours = moved("blocks.attn.q_bias")
    assert ours.shape == (4, 3) and ours[3, 2] == hf[3 * 3 + 2]
    hf, ours = moved("blocks.mlp.gate")
    assert ours.shape == (6, 5) and ours[5, 4] == hf[4, 5]
    hf, ours = moved("blocks.mlp.down")
    assert ours.shape == (5, 6) and ours[4, 5] == hf[5, 4]
    hf, ours = moved("head")
    assert ours.shape == (6, 7) and ours[5, 6] == hf[6, 5]
    hf, ours = moved("embed")
    assert ours.shape == (7, 6) and ours[6, 5] == hf[6, 5]


@given(
    rule=st.sampled_from(keymap.RULES),
    sizes=st.fixed_dictionaries({letter: st.integers(1, 5) for letter in "LDFNKHV"}),
)
def test_to_hf_inverts_to_ours(rule, sizes):
    weight = np.arange(np.prod(rule.hf_shape(sizes))).reshape(rule.hf_shape(sizes))
    ours = keymap.to_ours(weight, rule, sizes)
    assert ours.shape == rule.our_shape(sizes)[rule.stacked :]
    assert np.shares_memory(ours, weight)  # a view: streaming must not copy
    np.testing.assert_array_equal(keymap.to_hf(ours, rule, sizes), weight)
