"""Texts that tokenizers must not change, and how the tests load a tokenizer."""

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.tokenizer import (
    load_tokenizer,
)

TEXTS = [
    "Hello world!", "", " ", "\n", "It's we'll I'M they'd", "tabs\t\tand\r\nCRLF\n\n\nend",
    "ünïcödé ñ 中文 日本語 русский", "emoji 😀👍🏽", "x=10, y=2024; 1234567", "trailing   ",
    "def f(x):\n    return x + 1\n", "https://a.b/c?d=1&e=22", "price: $ 3,000.50 !!",
    "<|im_start|>user\nhi<|im_end|>",
]  # fmt: skip


def tokenizer_of(path):
    """The tokenizer of the checkpoint at `path`."""
    return load_tokenizer(open_checkpoint(str(path)))
