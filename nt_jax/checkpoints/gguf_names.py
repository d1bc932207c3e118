"""Names of tensors in GGUF files, and the order of rotary pairs in them.

llama.cpp keeps the two halves of every rotary pair side by side in q and k of "llama" files
(Mistral exports included); other architectures are not moved.
"""

import re

import numpy as np

from nt_jax.models.config import ModelConfig

TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
_GGUF_NAMES = {theirs: ours for ours, theirs in (TOP_NAMES | BLOCK_NAMES).items()}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def hf_name(name: str) -> str:
    """The HF name of a GGUF tensor; an unknown name is kept, and so reported as extra."""
    block = _BLOCK.fullmatch(name)
    if block and block[2] in BLOCK_NAMES:
        return f"model.layers.{block[1]}.{BLOCK_NAMES[block[2]]}.{block[3]}"
    stem, _, suffix = name.rpartition(".")
    return f"{TOP_NAMES[stem]}.{suffix}" if stem in TOP_NAMES else name


def gguf_name(name: str) -> str:
    """The inverse of `hf_name`."""
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("model.layers."):
        layer, _, rest = stem.removeprefix("model.layers.").partition(".")
        return f"blk.{layer}.{_GGUF_NAMES[rest]}.{suffix}"
    return f"{_GGUF_NAMES[stem]}.{suffix}"


def permute(name: str, weight: np.ndarray, config: ModelConfig) -> np.ndarray:
    """The inverse of `unpermute`."""
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    halves = weight.reshape(heads, 2, config.head_dim // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def unpermute(name: str, weight: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Rows of q and k from llama.cpp's order (pairs side by side) to HF's (halves apart)."""
    heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    pairs = weight.reshape(heads, config.head_dim // 2, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(weight.shape)
