"""GGUF files seen as Hugging Face checkpoints: config from metadata, names mapped, dequantised.

Rotary pairs are put back into HF's order (gguf_names.py).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize

from nt_jax.checkpoints.gguf_header import check_header
from nt_jax.checkpoints.gguf_names import hf_name, unpermute
from nt_jax.checkpoints.hf_config import read_config
from nt_jax.checkpoints.hf_fields import nearest, problems_error, short, words
from nt_jax.checkpoints.tensors import AGAIN, TensorInfo
from nt_jax.checkpoints.validate import tensor_problems
from nt_jax.errors import brief
from nt_jax.models.config import ModelConfig, RopeConfig
from nt_jax.models.rope import inverse_frequencies

ARCHITECTURES = ("llama", "qwen2", "qwen3")
STORAGE_TYPES = (
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K",
)  # fmt: skip
ROPE_FACTORS = "rope_freqs.weight"
# Metadata below the architecture's name: HF spelling of what is read, and what changes nothing.
# Anything else that is set is refused.
HF_FIELDS = {
    "block_count": "num_hidden_layers", "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window", "rope.freq_base": "rope_theta",
}  # fmt: skip
OTHER_FIELDS = words(
    """vocab_size attention.value_length attention.causal rope.dimension_count rope.scaling.type
    rope.scaling.factor rope.scaling.finetuned rope.scaling.original_context_length
    rope.scale_linear tensor_data_layout"""
)
TURN_ENDS = ("<|eot_id|>", "<|im_end|>")  # as LLaMA-3 and Qwen write them
_ROWS = 1024  # dequantised together, so that temporaries stay small


@dataclass(frozen=True)
class GgufFile:
    """An open GGUF file: its config, metadata, and tensors under their HF names."""

    path: Path
    config: ModelConfig
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    stored: dict[str, ReaderTensor] = field(repr=False)

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32 in HF layout."""
        stored, shape = self.stored[name], self.tensors[name].shape
        rows = stored.data.reshape(-1, stored.data.shape[-1])
        weight = np.empty((rows.shape[0], shape[-1]), np.float32)
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            weight[part] = dequantize(rows[part], stored.tensor_type)
        if self.metadata["general.architecture"] == "llama":
            weight = unpermute(name, weight, self.config)
        return weight.reshape(shape)


def open_gguf(path: Path) -> GgufFile:
    """The GGUF file at `path`; everything wrong with it is in one error."""
    try:
        check_header(path)
        reader = GGUFReader(path)
        metadata = {name: entry.contents() for name, entry in reader.fields.items()}
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        size = f"{path.stat().st_size:,} bytes"
        problem = f"not a readable GGUF file ({size}; {brief(error)}), perhaps cut short. {AGAIN}"
        raise problems_error(path, [problem]) from error
    problems = _file_problems(reader, metadata)
    if problems:
        raise problems_error(path, problems)
    stored = {hf_name(tensor.name): tensor for tensor in reader.tensors}
    tensors = {name: _info(path, tensor) for name, tensor in stored.items()}
    factors = stored.pop(ROPE_FACTORS, None)
    tensors.pop(ROPE_FACTORS, None)
    config, problems = _config(metadata, tensors, None if factors is None else factors.data)
    if config is not None:
        problems = problems + tensor_problems(config, tensors, STORAGE_TYPES)
    if config is None or problems:
        raise problems_error(path, problems)
    return GgufFile(path, config, metadata, tensors, stored)


def _file_problems(reader: GGUFReader, metadata: dict[str, Any]) -> list[str]:
    """Why this cannot be a whole chat model of a kind we compute."""
    architecture = metadata.get("general.architecture")
    problems = []
    if architecture not in ARCHITECTURES:
        near = nearest(str(architecture), ARCHITECTURES)
        supported = ", ".join(ARCHITECTURES)
        problems.append(
            f"architecture '{architecture}' is not supported{near}; supported: {supported}."
        )
    if metadata.get("split.count", 1) > 1:
        problems.append(
            f"this is one of {metadata['split.count']} parts; join them first with "
            "`llama-gguf-split --merge`."
        )
    if reader.byte_order != "I":
        problems.append("the file has another byte order; convert it with `gguf-convert-endian`.")
    return problems


def _info(path: Path, tensor: ReaderTensor) -> TensorInfo:
    shape = tuple(int(size) for size in reversed(tensor.shape))  # ggml lists the fastest axis first
    start = int(tensor.data_offset)
    return TensorInfo(path, tensor.tensor_type.name, shape, start, start + int(tensor.n_bytes))


def _config(
    metadata: dict[str, Any], tensors: dict[str, TensorInfo], rope_factors: np.ndarray | None
) -> tuple[ModelConfig | None, list[str]]:
    """(config, problems) from the metadata, by way of the `config.json` that it amounts to."""
    prefix = metadata["general.architecture"] + "."
    given = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
    fields: dict[str, Any] = {
        theirs: _shortest(given[ours]) for ours, theirs in HF_FIELDS.items() if ours in given
    }
    problems = [
        f"metadata '{prefix}{name}' = {short(value)} is unknown and may change what the model "
        f"computes{nearest(name, HF_FIELDS.keys() | OTHER_FIELDS)}. Use another conversion."
        for name, value in given.items()
        if name not in HF_FIELDS and name not in OTHER_FIELDS and value not in (0, False, "")
    ]
    embed = tensors.get("model.embed_tokens.weight")
    ids = [_token_id(metadata, name) for name in ("eos", "eot", "eom")]
    if ids[1] is None:  # older conversions; llama.cpp looks for these as well (llama-vocab.cpp)
        tokens, template = (
            metadata.get(f"tokenizer.{n}") for n in ("ggml.tokens", "chat_template")
        )
        known, written = (tokens if isinstance(tokens, list) else []), str(template)
        ids += [known.index(text) for text in TURN_ENDS if text in written and text in known]
    fields |= {
        "model_type": metadata["general.architecture"],
        "vocab_size": embed.shape[0] if embed else given.get("vocab_size"),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "eos_token_id": list(dict.fromkeys(i for i in ids if i is not None)),
        "bos_token_id": _token_id(metadata, "bos"),
        "pad_token_id": _token_id(metadata, "padding"),
        "sliding_window": fields.get("sliding_window") or None,
        "num_key_value_heads": fields.get("num_key_value_heads"),
        "rope_scaling": _rope_scaling(given),
    }
    if "head_dim" not in fields and "rope.dimension_count" in given:
        fields["head_dim"] = given["rope.dimension_count"]
    head_dim = fields.get("head_dim")
    for name in ("rope.dimension_count", "attention.value_length"):
        if given.get(name, head_dim) != head_dim:
            problems.append(
                f"metadata '{prefix}{name}' = {given[name]} differs from the head size {head_dim}; "
                "only heads of one size, rotated as a whole, are computed."
            )
    config, found = read_config(fields, file="GGUF metadata")
    if config is not None and rope_factors is not None:
        rope = rope_from_factors(rope_factors, config)
        if rope is None or config.rope.kind != "default":
            found.append(f"'{ROPE_FACTORS}' holds rope factors that are not llama3's.")
        else:
            config = replace(config, rope=rope)
    return config, problems + found


def _shortest(value: Any) -> Any:
    """A float32 of the metadata as its shortest decimal: 1e-5, not 9.99999974738e-6."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _token_id(metadata: dict[str, Any], name: str) -> int | None:
    return metadata.get(f"tokenizer.ggml.{name}_token_id")


def _rope_scaling(given: dict[str, Any]) -> dict[str, Any] | None:
    """The `rope_scaling` that the metadata describes, in the old or the new spelling.

    As llama.cpp reads it: linear unless it says otherwise, and a factor of 0 is none.
    """
    kind = given.get("rope.scaling.type", "linear")
    factor = given.get("rope.scaling.factor", given.get("rope.scale_linear", 1.0))
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    return {"rope_type": kind, "factor": _shortest(factor)}


def rope_from_factors(factors: np.ndarray, config: ModelConfig) -> RopeConfig | None:
    """The llama3 settings that give these divisors of the frequencies [H/2], None if none do.

    llama.cpp stores only the divisors. The largest is the factor; 1 and 4 are the bounds of every
    published LLaMA-3 model, and the original context is a power of two.
    """
    theta, factor = config.rope.theta, float(factors.max())
    plain = inverse_frequencies(RopeConfig("default", theta), config.head_dim)
    candidates = [RopeConfig("default", theta)]
    candidates += [RopeConfig("llama3", theta, factor, 1.0, 4.0, 1 << n) for n in range(6, 18)]
    for rope in candidates:
        wanted = plain / inverse_frequencies(rope, config.head_dim)
        if factors.shape == wanted.shape and np.allclose(factors, wanted, rtol=1e-4):
            return rope
    return None
