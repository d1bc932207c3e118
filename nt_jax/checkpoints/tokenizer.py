"""Text to token ids and back, through the checkpoint's own tokenizer and chat template."""

import os
from collections.abc import Sequence
from typing import Any

from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.checkpoints.gguf_tokenizer import build_tokenizer
from nt_jax.checkpoints.hf_fields import problems_error
from nt_jax.data.prompts import Prompt, messages_of
from nt_jax.errors import CheckpointError, DataError

# transformers announces on import that it found no torch, which we do without on purpose.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

# Templates of LLaMA-3.1 and later write today's date, so the same prompt would differ from day to
# day; this is the date they fall back to.
TEMPLATE_DATE = "26 Jul 2024"


Tokenizer = PreTrainedTokenizerFast


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a checkpoint, with its chat template; no remote code, no download."""
    if checkpoint.gguf is not None:
        return _from_gguf(checkpoint, checkpoint.gguf.metadata)
    directory = checkpoint.path
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((directory / name).is_file() for name in names):
        files = " nor ".join(names)
        raise problems_error(
            directory, [f"no tokenizer, neither {files} is there. Copy it from the original model."]
        )
    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False, use_fast=True
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise problems_error(
            directory, [f"the tokenizer cannot be loaded ({reason}). Download its files again."]
        ) from error


def _from_gguf(checkpoint: Checkpoint, metadata: dict[str, Any]) -> Tokenizer:
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    config = checkpoint.config
    ids = {
        "bos_token": config.bos_id,
        "eos_token": metadata.get("tokenizer.ggml.eos_token_id"),
        "unk_token": metadata.get("tokenizer.ggml.unknown_token_id"),
        "pad_token": config.pad_id,
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(metadata, checkpoint.path),
        chat_template=metadata.get("tokenizer.chat_template"),
        name_or_path=str(checkpoint.path),
        model_max_length=config.max_positions,
        clean_up_tokenization_spaces=False,
        **{name: tokens[index] if index is not None else None for name, index in ids.items()},
    )


def encode_chat(tokenizer: Tokenizer, prompt: Prompt, system: str | None = None) -> list[int]:
    """Token ids of a chat up to where the answer begins.

    `system` is put before it where it has no system message of its own.
    """
    if tokenizer.chat_template is None:
        raise CheckpointError(
            f"The tokenizer of '{tokenizer.name_or_path}' has no chat template, so nothing can be "
            "asked. Use an instruct model, or add chat_template.jinja to its directory."
        )
    messages = messages_of(prompt)
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,  # templates that do not know these two ignore them
            date_string=TEMPLATE_DATE,
        )
    except TemplateError as error:
        about = "a system message" if messages[0]["role"] == "system" else "this message"
        raise DataError(f"The model's chat template refuses {about}: {error}.") from error
    return tokenizer.encode(str(text), add_special_tokens=False)  # the template wrote them


def encode_answer(tokenizer: Tokenizer, text: str, eos_id: int) -> list[int]:
    """Token ids of an answer, closed by `eos_id`."""
    return [*tokenizer.encode(text, add_special_tokens=False), eos_id]


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of some token ids, special tokens left out."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text)
