"""A tokenizer as GGUF metadata: how llama.cpp is to cut text is found by trying what it knows.

llama.cpp knows tokenizers by name. The name is right if the tokenizer that it stands for
(nt_jax/checkpoints/gguf_tokenizer.py) cuts texts of many kinds as the model's own does.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedTokenizerFast

from nt_jax.checkpoints.chat_template import shown_end
from nt_jax.checkpoints.gguf_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    SPLITS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    build_tokenizer,
)
from nt_jax.errors import CheckpointError
from nt_jax.export.gguf_file import Value, typed
from nt_jax.models.config import ModelConfig

NAMED = 5  # tokens that a message lists
ENDS = ("eos", "eot", "eom")  # what a GGUF file calls the tokens that end an answer
PROBES = (
    "Hello world", " two  spaces and   three", "It's we'll DON'T I'M", "", "   ",
    "12 345 6789 3.14 1,000,000", "camelCase HTTPServer x1y2 3D v2.0", "a_b.c(d)[e]{f}=>g;//h",
    "line\nbreaks\n\n\nand \n \n spaces \t tabs\t\t", "\r\n windows \r\n",
    "caf\u00e9 na\u00efve \u00dcber stra\u00dfe", "\u201cquotes\u201d \u2014 \u2026 !!! ?!",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \ud55c\uad6d\uc5b4",
    "\U0001f600 \u0915\u094d\u0937 \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
)  # fmt: skip


def vocabulary(tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> dict[str, Value]:
    """tokenizer.* of a GGUF file; raises a CheckpointError where llama.cpp would cut otherwise."""
    described, fitting = json.loads(tokenizer.backend_tokenizer.to_str()), []
    for metadata in _candidates(described, tokenizer, config):
        rebuilt = build_tokenizer(metadata, "the tokenizer written")
        if all(_same(rebuilt, tokenizer, text) for text in PROBES):
            rules = json.loads(rebuilt.to_str())["pre_tokenizer"]
            fitting.append((rules != described["pre_tokenizer"], len(fitting), metadata))
    if fitting:  # of several that cut the probes alike, one with the very same rules
        return {name: typed(value) for name, value in min(fitting)[2].items()}
    raise CheckpointError(
        "llama.cpp knows no tokenizer that cuts text like this model's, as far as nt_jax can tell. "
        "Export --format hf and make the GGUF file of it with llama.cpp's convert_hf_to_gguf.py."
    )


def _same(rebuilt: Any, tokenizer: PreTrainedTokenizerFast, text: str) -> bool:
    return all(
        rebuilt.encode(text, add_special_tokens=special).ids
        == tokenizer.encode(text, add_special_tokens=special)
        for special in (False, True)
    )


def _candidates(
    described: dict[str, Any], tokenizer: PreTrainedTokenizerFast, config: ModelConfig
) -> Iterator[dict[str, Any]]:
    """Every way in which llama.cpp may read the vocabulary, likely ones first."""
    model = described["model"]
    if model.get("type") != "BPE":
        return
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    common = _special_ids(tokenizer, config) | _templates(tokenizer)
    bos = config.bos_id
    adds_bos = bos is not None and tokenizer.encode("a")[:1] == [bos]
    common["tokenizer.ggml.add_bos_token"] = adds_bos
    tokens, types = _tokens(model, described["added_tokens"], config.vocab_size)
    common |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    if model.get("byte_fallback"):
        made = {
            "".join(merge.split(" ", 1)): -float(n) for n, merge in reversed([*enumerate(merges)])
        }
        scores = [made.get(token, -1e6) for token in tokens]
        for prefix in (True, False):
            yield common | {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.scores": scores,
                "tokenizer.ggml.add_space_prefix": prefix,
            }
    else:
        for pre in SPLITS:
            yield common | {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.pre": pre,
                "tokenizer.ggml.merges": merges,
            }


def _tokens(
    model: dict[str, Any], added: list[dict[str, Any]], size: int
) -> tuple[list[str], list[int]]:
    """(every token by id, its kind); ids that no token has are filled up, as the converter does.

    Added tokens past the `size` ids of the model (a [PAD] that was never trained) are left out: no
    prompt that holds one is answered (nt_jax/checkpoints/vocabulary.py), and text that spells it is
    text. Ordinary ones are what text is cut into, so those are refused.
    """
    added = [entry for entry in added if entry["id"] < size]
    _check_ids(model["vocab"], size)
    tokens, types = [f"[PAD{index}]" for index in range(size)], [UNUSED] * size
    for token, index in model["vocab"].items():
        byte = model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x")
        tokens[index], types[index] = token, BYTE if byte else NORMAL
    for entry in added:
        tokens[entry["id"]] = entry["content"]
        types[entry["id"]] = CONTROL if entry["special"] else USER_DEFINED
    if model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    return tokens, types


def _check_ids(vocab: dict[str, int], size: int) -> None:
    """Raises a CheckpointError for ordinary tokens that the model has no row for."""
    over = [f"{token!r} ({index})" for token, index in vocab.items() if index >= size]
    if over:
        more = f" and {len(over) - NAMED:,} more" if len(over) > NAMED else ""
        raise CheckpointError(
            f"A GGUF file holds the model's {size} tokens (vocab_size), but its tokenizer has "
            f"{', '.join(over[:NAMED])}{more} beyond them. Export --format hf, or copy the "
            "tokenizer's files from the model's original."
        )


def _special_ids(tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> dict[str, Any]:
    """The ids of special tokens; a model that ends answers with several tokens has eot and eom."""
    ids = dict(zip(ENDS, _end_ids(tokenizer, config), strict=False))
    ids |= {"bos": config.bos_id, "padding": config.pad_id, "unknown": tokenizer.unk_token_id}
    known = {name: i for name, i in ids.items() if isinstance(i, int) and i < config.vocab_size}
    return {f"tokenizer.ggml.{name}_token_id": i for name, i in known.items()}


def _end_ids(tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> list[int]:
    """The ids that end an answer, once each: first the one that the chat template writes."""
    shown = None if tokenizer.chat_template is None else shown_end(tokenizer)
    return sorted(dict.fromkeys(config.eos_ids), key=lambda end: end != shown)


def ends_note(tokenizer: PreTrainedTokenizerFast, config: ModelConfig) -> tuple[str, ...]:
    """Which ends of an answer a GGUF file has no place for, where there are such."""
    left = _end_ids(tokenizer, config)[len(ENDS) :]
    if not left:
        return ()
    names = [f"{tokenizer.convert_ids_to_tokens(end)} ({end})" for end in left[:NAMED]]
    more = f" and {len(left) - NAMED:,} more" if len(left) > NAMED else ""
    return (
        f"a GGUF file names {len(ENDS)} tokens that end an answer: left out {', '.join(names)}"
        f"{more}, which llama.cpp stops at only where it knows them by their text",
    )


def _templates(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The chat template; of several the default one, and the others by their names."""
    template = tokenizer.chat_template
    named = dict(template) if isinstance(template, dict) else {}
    default = named.pop("default", None) if isinstance(template, dict) else template
    found = {"tokenizer.chat_template": default} if default is not None else {}
    if named:  # as llama.cpp's converter names them
        safe = {re.sub(r"[^A-Za-z0-9]", "_", name): text for name, text in named.items()}
        found["tokenizer.chat_templates"] = [*safe]
        found |= {f"tokenizer.chat_template.{name}": text for name, text in safe.items()}
    return found
