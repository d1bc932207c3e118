"""What a GGUF file says of the model beside its tokenizer, from our config of it."""

import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType

from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.export.gguf_file import Value, typed
from nt_jax.export.gguf_lora import architecture
from nt_jax.models.config import ModelConfig, RopeConfig
from nt_jax.models.rope import inverse_frequencies

_FILE_TYPES = {
    GGMLQuantizationType.F32: LlamaFileType.ALL_F32,
    GGMLQuantizationType.F16: LlamaFileType.MOSTLY_F16,
    GGMLQuantizationType.BF16: LlamaFileType.MOSTLY_BF16,
}


def model_metadata(
    checkpoint: Checkpoint, kind: GGMLQuantizationType, base: str
) -> dict[str, Value]:
    """general.* and ARCHITECTURE.* as llama.cpp's converter has them; `kind`: of matrices."""
    config = checkpoint.config
    prefix = f"{architecture(config.family)}."
    fields = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_positions,
        "embedding_length": config.width,
        "block_count": config.layers,
        "feed_forward_length": config.neurons,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.layer_norm_rms_epsilon": float(config.rms_eps),
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "rope.freq_base": float(config.rope.theta),
    }
    if config.rope.kind == "linear":
        fields |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(config.rope.factor)}
    general = {
        "general.type": "model",
        "general.name": f"{base.split('/')[-1]} NeuronTune",
        "general.file_type": int(_FILE_TYPES[kind]),
        "general.quantization_version": 2,
    }
    every = general | {prefix + name: value for name, value in fields.items()}
    return {name: typed(value) for name, value in every.items()}


def rope_factors(config: ModelConfig) -> np.ndarray | None:
    """llama3's divisors of the rotary frequencies, float32 [H/2]; None where there are none."""
    if config.rope.kind != "llama3":
        return None
    plain = inverse_frequencies(RopeConfig("default", config.rope.theta), config.head_dim)
    return (plain / inverse_frequencies(config.rope, config.head_dim)).astype(np.float32)
