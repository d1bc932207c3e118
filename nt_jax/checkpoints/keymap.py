"""The one table between Hugging Face tensor names and our leaves; read forwards and backwards.

Axis letters: D width, F neurons, N query heads, K kv heads, H head dim, V vocabulary, L layers;
"(NH)" is one torch axis that holds both, heads outermost.
"""

import math
import re
from dataclasses import dataclass

import numpy as np

from nt_jax.models.config import ModelConfig

BLOCK = "model.layers.{l}."


@dataclass(frozen=True)
class KeyRule:
    """One row: HF name ("{l}" is the layer), our leaf, and the axes of each, layer axis apart."""

    hf: str
    ours: str
    hf_axes: str
    our_axes: str
    needs: str = ""  # the ModelConfig property without which the tensor does not exist

    @property
    def stacked(self) -> bool:
        """Whether the leaf carries a leading layer axis."""
        return "{l}" in self.hf

    def hf_names(self, layers: int) -> list[str]:
        """The HF tensor names behind the leaf, in layer order."""
        return [self.hf.format(l=layer) for layer in range(layers)] if self.stacked else [self.hf]

    def hf_shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """Shape of one HF tensor."""
        return tuple(math.prod(sizes[a] for a in axis) for axis in _torch_axes(self.hf_axes))

    def our_shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """Shape of the whole leaf, layer axis included."""
        return tuple(sizes[a] for a in ("L" * self.stacked) + self.our_axes)


RULES = (
    KeyRule("model.embed_tokens.weight", "embed", "VD", "VD"),
    KeyRule(BLOCK + "input_layernorm.weight", "blocks.attn_norm", "D", "D"),
    KeyRule(BLOCK + "self_attn.q_proj.weight", "blocks.attn.q", "(NH)D", "DNH"),
    KeyRule(BLOCK + "self_attn.k_proj.weight", "blocks.attn.k", "(KH)D", "DKH"),
    KeyRule(BLOCK + "self_attn.v_proj.weight", "blocks.attn.v", "(KH)D", "DKH"),
    KeyRule(BLOCK + "self_attn.o_proj.weight", "blocks.attn.o", "D(NH)", "NHD"),
    KeyRule(BLOCK + "self_attn.q_proj.bias", "blocks.attn.q_bias", "(NH)", "NH", "qkv_bias"),
    KeyRule(BLOCK + "self_attn.k_proj.bias", "blocks.attn.k_bias", "(KH)", "KH", "qkv_bias"),
    KeyRule(BLOCK + "self_attn.v_proj.bias", "blocks.attn.v_bias", "(KH)", "KH", "qkv_bias"),
    KeyRule(BLOCK + "self_attn.q_norm.weight", "blocks.attn.q_norm", "H", "H", "qk_norm"),
    KeyRule(BLOCK + "self_attn.k_norm.weight", "blocks.attn.k_norm", "H", "H", "qk_norm"),
    KeyRule(BLOCK + "post_attention_layernorm.weight", "blocks.mlp_norm", "D", "D"),
    KeyRule(BLOCK + "mlp.gate_proj.weight", "blocks.mlp.gate", "FD", "DF"),
    KeyRule(BLOCK + "mlp.up_proj.weight", "blocks.mlp.up", "FD", "DF"),
    KeyRule(BLOCK + "mlp.down_proj.weight", "blocks.mlp.down", "DF", "FD"),
    KeyRule("model.norm.weight", "final_norm", "D", "D"),
    KeyRule("lm_head.weight", "head", "VD", "DV", "untied"),
)
DOWN = next(rule for rule in RULES if rule.ours == "blocks.mlp.down")


def rules_for(config: ModelConfig) -> list[KeyRule]:
    """The rows that a model of this config has."""
    has = {
        "": True,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "untied": not config.tied,
    }
    return [rule for rule in RULES if has[rule.needs]]


def hf_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """HF name -> shape of every tensor that a checkpoint of this config must hold."""
    return {
        name: rule.hf_shape(config.sizes)
        for rule in rules_for(config)
        for name in rule.hf_names(config.layers)
    }


def to_ours(weight: np.ndarray, rule: KeyRule, sizes: dict[str, int]) -> np.ndarray:
    """One HF tensor in our layout, without the layer axis; a view of `weight`."""
    letters = "".join(_torch_axes(rule.hf_axes))
    split = weight.reshape([sizes[a] for a in letters])
    return split.transpose([letters.index(a) for a in rule.our_axes])


def to_hf(leaf: np.ndarray, rule: KeyRule, sizes: dict[str, int]) -> np.ndarray:
    """The inverse of `to_ours`: one layer of a leaf as the HF tensor."""
    letters = "".join(_torch_axes(rule.hf_axes))
    return leaf.transpose([rule.our_axes.index(a) for a in letters]).reshape(rule.hf_shape(sizes))


def _torch_axes(letters: str) -> list[str]:
    """The letters within each torch axis: ["D", "NH"] for "D(NH)"."""
    return [axis.strip("()") for axis in re.findall(r"\(\w+\)|\w", letters)]
