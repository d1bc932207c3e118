"""Text to token ids and back, through the checkpoint's own tokenizer and chat template."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from nt_jax.checkpoints.chat_template import render
from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.checkpoints.gguf_tokenizer import build_tokenizer
from nt_jax.checkpoints.hf_fields import problems_error
from nt_jax.checkpoints.marks import marks_of
from nt_jax.checkpoints.source import named_templates
from nt_jax.data.prompts import Prompt, as_conversation, messages_under
from nt_jax.errors import CheckpointError, brief, panicked
from nt_jax.limits import TOKENIZER_BYTES, check_file

Tokenizer = PreTrainedTokenizerFast
TRIED = "A text."  # some rules turn out to be wrong only where they are used


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer of a checkpoint, with its chat template; no remote code, no download."""
    held = checkpoint.gguf
    try:
        if held is not None:
            tokenizer = _from_gguf(checkpoint, held.metadata)
        else:
            tokenizer = _from_folder(checkpoint.path)
            _name_ends(tokenizer, checkpoint)
        tokenizer.encode(TRIED)
        return tokenizer
    except CheckpointError:
        raise
    except BaseException as error:  # whatever the library says of files that it does not expect
        if not isinstance(error, Exception) and not panicked(error):
            raise
        said = f"the tokenizer cannot be loaded ({_reason(error)}). Download its files again."
        if held is not None:
            said = f"the tokenizer cannot be rebuilt ({_reason(error)}). Use another conversion."
        raise problems_error(checkpoint.path, [said]) from error


def _from_folder(directory: Path) -> Tokenizer:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if not any((directory / name).is_file() for name in names):
        files = " nor ".join(names)
        raise problems_error(
            directory, [f"no tokenizer, neither {files} is there. Copy it from the original model."]
        )
    for path in (*directory.iterdir(), *named_templates(directory)):
        if path.suffix in (".json", ".jinja", ".model", ".txt") and path.is_file():
            check_file(path, TOKENIZER_BYTES)
    tokenizer = _class_for(directory).from_pretrained(directory, local_files_only=True)
    if not isinstance(tokenizer.chat_template, str | dict | None):
        raise TypeError("its chat_template is no text")
    if type(tokenizer.model_max_length) not in (int, float):
        raise TypeError("its model_max_length is no number")
    return tokenizer


def rules_replaced(directory: Path) -> bool:
    """Whether AutoTokenizer of transformers 5 may not take the folder's tokenizer.json as it is."""
    about = directory / "tokenizer_config.json"
    if not about.is_file() or not (directory / "tokenizer.json").is_file():
        return False
    named = json.loads(about.read_text("utf-8")).get("tokenizer_class")
    return str(named).startswith(("GPT2", "Llama"))


def _name_ends(tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Give BOS and EOS the tokens of config.json where no file of the tokenizer speaks of them.

    The classes of LLaMA and GPT-2 have such defaults; a null in the file, as Qwen has, is none.
    """
    path, config = checkpoint.path / "tokenizer_config.json", checkpoint.config
    told = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for name, ids in (("bos_token", [config.bos_id]), ("eos_token", config.eos_ids[:1])):
        known = name in told or getattr(tokenizer, name) is not None
        if not known and ids and ids[0] is not None:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(ids[0]))


def _class_for(directory: Path) -> Any:
    """The class that takes tokenizer.json as it is, or else the one that older files name.

    AutoTokenizer of transformers 5 takes a LLaMA's or GPT-2's vocabulary out of tokenizer.json and
    writes rules of its own around it (its issues 45488 and 45920): SmolLM2's digits and blanks get
    other tokens than the model has seen.
    """
    if (directory / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast
    if not (directory / "vocab.json").is_file() and find_spec("sentencepiece") is None:
        said = "tokenizer.model is read by the package sentencepiece, which is not installed."
        more = "Install it, or copy tokenizer.json from the original model."
        raise problems_error(directory, [f"{said} {more}"])
    from transformers import AutoTokenizer  # here: it imports torch where there is one

    return AutoTokenizer


def _reason(error: BaseException) -> str:
    """What a library says, on one line."""
    return brief(error).rstrip(".")


@contextlib.contextmanager
def _panics_named(tokenizer: Tokenizer) -> Iterator[None]:
    """Turn a panic of the library's Rust part, at one text or another, into a CheckpointError."""
    try:
        yield
    except BaseException as error:
        if not panicked(error):
            raise
        raise CheckpointError(
            f"{tokenizer.name_or_path}: the tokenizer fails on a text ({_reason(error)}). Download "
            "its files again."
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


def encode_chat(
    tokenizer: Tokenizer, prompt: Prompt, system: str | None = None, thinking: bool = False
) -> list[int]:
    """Token ids of a chat up to where the answer begins.

    `system` is put before it where it has no system message of its own. Text that spells an added
    token stays text, unless the prompt says that it is forged on purpose; ids of all other prompts
    are those of `apply_chat_template`. In the model's own turns only special tokens are text: it
    writes the others itself, and templates look for them (Qwen3 cuts reasoning at "</think>").
    Raises a DataError where the template refuses the prompt.
    """
    messages, marks = messages_under(prompt, system), marks_of(tokenizer)
    text = render(tokenizer, messages, thinking)
    texts = [message["content"] for message in messages]
    char = marks.unused([*texts, text])
    own = marks_of(tokenizer, special=True)
    kinds = [own if message["role"] == "assistant" else marks for message in messages]
    broken = [kind.broken(content, char) for kind, content in zip(kinds, texts, strict=True)]
    spelled = any(map(marks.spelled_by, texts))
    if (spelled or broken != texts) and not as_conversation(prompt).forged:
        changed = [m | {"content": t} for m, t in zip(messages, broken, strict=True)]
        whole = render(tokenizer, changed, thinking)
        if spelled or marks.count(whole) != marks.count(text):
            with _panics_named(tokenizer):
                return marks.encode(whole, char)
    with _panics_named(tokenizer):
        return tokenizer.encode(text, add_special_tokens=False)  # the template wrote them


def encode_text(tokenizer: Tokenizer, text: str, special: bool = False) -> list[int]:
    """Token ids of a text in which nothing is a special token; `special`: with BOS and the like."""
    with _panics_named(tokenizer):
        marks = marks_of(tokenizer)
        if not marks.spelled_by(text):
            return tokenizer.encode(text, add_special_tokens=special)
        char = marks.unused([text])
        return marks.encode(marks.broken(text, char), char, special)


def encode_answer(tokenizer: Tokenizer, text: str, eos_id: int) -> list[int]:
    """Token ids of an answer to learn, closed by `eos_id`, which nothing in it forges."""
    return [*encode_text(tokenizer, text), eos_id]


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of some token ids, special tokens left out."""
    with _panics_named(tokenizer):
        return str(
            tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
