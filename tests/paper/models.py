"""The paper's four models, shrunk: their config fields, tokens and chat templates, random weights.

Config fields are those of the models' own config.json; only the sizes that make them large differ,
vocabulary and token numbers among them.
"""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from nt_jax.checkpoints.hf_config import config_from_hf
from nt_jax.checkpoints.keymap import hf_shapes
from tests.checkpoints import families

_LLAMA2 = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
    "torch_dtype": "float16", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
_LLAMA3 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    },
    "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
_QWEN_7B = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02,
    "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28,
    "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip
_QWEN_14B = _QWEN_7B | {
    "hidden_size": 5120, "intermediate_size": 13824, "max_window_layers": 70,
    "num_attention_heads": 40, "num_hidden_layers": 48, "num_key_value_heads": 8,
}  # fmt: skip
# recipe -> (config.json, the family of its tokens and template)
MODELS = {
    "llama2-7b-chat": (_LLAMA2, "llama2"),
    "llama3.1-8b-instruct": (_LLAMA3, "llama3.1"),
    "qwen2.5-7b-instruct": (_QWEN_7B, "qwen2.5"),
    "qwen2.5-14b-instruct": (_QWEN_14B, "qwen2.5"),
}
# What a config.json and generation_config.json name by number: (begin, ends of an answer).
TOKENS = {
    "llama2": ("<s>", ["</s>"]),
    "llama3.1": ("<|begin_of_text|>", ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]),
    "qwen2.5": ("<|endoftext|>", ["<|im_end|>", "<|endoftext|>"]),
}
HUB_NAMES = {
    "llama2-7b-chat": "Llama-2-7b-chat-hf",
    "llama3.1-8b-instruct": "Llama-3.1-8B-Instruct",
    "qwen2.5-7b-instruct": "Qwen2.5-7B-Instruct",
    "qwen2.5-14b-instruct": "Qwen2.5-14B-Instruct",
}
LAYERS, WIDTH, NEURONS = 2, 32, 48


def shrunk(name: str) -> dict:
    """The config of one of the models at the size of a test, its ratios of heads kept."""
    config, _ = MODELS[name]
    shared = config["num_attention_heads"] // config["num_key_value_heads"]
    return config | {
        "hidden_size": WIDTH, "intermediate_size": NEURONS, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": max(1, 4 // shared),
    }  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """A checkpoint of random weights in `folder`, under the model's own name on the hub."""
    out, (_, family) = folder / HUB_NAMES[name], MODELS[name]
    tokenizer, (bos, ends) = families.compact(family), TOKENS[family]
    tokenizer.save_pretrained(out)
    eos = tokenizer.convert_tokens_to_ids(ends)
    one = isinstance(MODELS[name][0]["eos_token_id"], int)
    numbers = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "bos_token_id": tokenizer.convert_tokens_to_ids(bos),
        "eos_token_id": eos[0] if one else eos,
    }
    fields = shrunk(name) | numbers
    (out / "config.json").write_text(json.dumps(fields))
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    generator, tensors = np.random.default_rng(0), {}
    for key, shape in hf_shapes(config_from_hf(fields, {"eos_token_id": eos}, str(out))).items():
        noise = generator.standard_normal(shape, np.float32)
        values = 1 + 0.2 * noise if key.endswith("norm.weight") else noise * shape[-1] ** -0.5
        tensors[key] = values.astype(ml_dtypes.bfloat16)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out
