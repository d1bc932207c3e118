"""A tokenizer for each model family: a small vocabulary, the real added tokens at their real ids.

Ordinary tokens are few, and fillers take the numbers up to the added ones; the chat templates are
the real ones (templates/SOURCES.md). Where a family's files hold marks as ordinary tokens as well,
so do these, with merges that lead to them.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from nt_jax.checkpoints.gguf_tokenizer import SPLITS
from tests import tiny

TEMPLATES = Path(__file__).parent / "templates"
LLAMA3 = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
]  # fmt: skip
QWEN2 = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>",
    "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
]  # fmt: skip
QWEN3 = [*QWEN2, "<tool_response>", "</tool_response>", "<think>", "</think>"]
MISTRAL3 = [
    "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
]  # fmt: skip
PIECES = ["<unk>", "<s>", "</s>"]


def _byte_level(pre: str, first: int, added: list[str], bos: str | None, eos: str) -> dict:
    """Ordinary tokens below `first`, the added ones from there on."""
    trained = json.loads((tiny.tokenizer_directory() / "tokenizer.json").read_text())["model"]
    words = sorted(trained["vocab"], key=trained["vocab"].get)[len(tiny.SPECIAL) :]
    vocab = {word: number for number, word in enumerate(words)}
    vocab |= {f"filler {number}": number for number in range(len(vocab), first)}
    merges, whole = [tuple(merge) for merge in trained["merges"]], pre == "llama-bpe"
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=whole))
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    plain = ("<tool", "</tool", "<think", "</think", "<|fim", "<|repo", "<|file")
    for token in added:
        backend.add_tokens(
            [AddedToken(token, normalized=False, special=not token.startswith(plain))]
        )
    return {"tokenizer_object": backend, "bos_token": bos, "eos_token": eos}


def _sentencepiece(marks: list[str], metaspace: bool) -> dict:
    """Characters with single bytes as a fallback; marks are ordinary tokens too, and merge."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False)
    learner.train_from_iterator([tiny._TEXT, *(mark * 9 for mark in [*PIECES, *MISTRAL3])], trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab = {token: number for number, token in enumerate([*PIECES, *marks])}
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    for token in learned["vocab"]:
        vocab.setdefault(token, len(vocab))
    merges = [tuple(merge) for merge in learned["merges"]]
    backend = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if metaspace:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        spaces = normalizers.Replace(" ", "\u2581")
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces])
    backend.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in [*PIECES, *marks]])
    return {
        "tokenizer_object": backend,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }


# family -> (chat template, how its tokenizer is made, ids that generation stops at)
FAMILIES = {
    "llama2": ("llama2", lambda: _sentencepiece([], metaspace=False), (2,)),
    "llama2 in transformers 5": ("llama2", lambda: _sentencepiece([], metaspace=True), (2,)),
    "mistral v0.2": ("mistral-v0.2", lambda: _sentencepiece([], metaspace=False), (2,)),
    "mistral v0.3": ("mistral-v3", lambda: _sentencepiece(MISTRAL3, metaspace=False), (2,)),
    "llama3.1": (
        "llama3.1",
        lambda: _byte_level("llama-bpe", 128000, LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
        (128001, 128008, 128009),
    ),
    "qwen2.5": (
        "qwen2.5",
        lambda: _byte_level("qwen2", 151643, QWEN2, None, "<|im_end|>"),
        (151645, 151643),
    ),
    "qwen3": (
        "qwen3",
        lambda: _byte_level("qwen2", 151643, QWEN3, None, "<|im_end|>"),
        (151645, 151643),
    ),
}  # fmt: skip


def compact(family: str) -> PreTrainedTokenizerFast:
    """The family's tokenizer without fillers: the same marks, at numbers of their own."""
    make = {
        "llama2": FAMILIES["llama2"][1],
        "llama3.1": lambda: _byte_level(
            "llama-bpe", tiny.VOCAB, LLAMA3, "<|begin_of_text|>", "<|eot_id|>"
        ),
        "qwen2.5": lambda: _byte_level("qwen2", tiny.VOCAB, QWEN2, None, "<|im_end|>"),
    }[family]
    return _with_template(family, make)


@functools.cache
def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The family's tokenizer with its chat template; treat it as read-only."""
    return _with_template(family, FAMILIES[family][1])


def _with_template(family: str, make: Callable[[], dict]) -> PreTrainedTokenizerFast:
    template = FAMILIES[family][0]
    text = (TEMPLATES / f"{template}.jinja").read_text()
    return PreTrainedTokenizerFast(
        **make(), chat_template=text, name_or_path=family, clean_up_tokenization_spaces=False
    )
