"""Other readers of the same bytes: what we took an input for must be what they take it for."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def tensors(path: Path, found: dict) -> None:
    """The tensors are those of the safetensors library, which accepts the files as well."""
    import hashlib

    from safetensors.numpy import load_file

    theirs: dict[str, np.ndarray] = {}
    for file in sorted(path.glob("*.safetensors")):
        theirs |= load_file(file)
    hashes = {name: hashlib.sha256(t.tobytes()).hexdigest() for name, t in theirs.items()}
    assert found["tensors"] == hashes


def gguf(path: Path, found: dict) -> None:
    """Tensors have the names and sizes that the gguf package finds."""
    from gguf import GGUFReader

    stored = GGUFReader(path).tensors
    assert len(found["tensors"]) in (len(stored), len(stored) - 1)


def config(path: Path, found: dict) -> None:
    """The sizes and numbers of transformers, where it takes the config at all."""
    from transformers import AutoConfig

    try:
        theirs = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception:
        return
    ours = found["config"]
    rope = getattr(theirs, "rope_parameters", None) or {}
    pairs = [
        (ours.layers, theirs.num_hidden_layers), (ours.width, theirs.hidden_size),
        (ours.neurons, theirs.intermediate_size), (ours.heads, theirs.num_attention_heads),
        (ours.kv_heads, theirs.num_key_value_heads), (ours.vocab_size, theirs.vocab_size),
        (ours.rms_eps, theirs.rms_norm_eps), (ours.tied, theirs.tie_word_embeddings),
        (ours.rope.theta, rope.get("rope_theta", ours.rope.theta)),
    ]  # fmt: skip
    assert all(one == other for one, other in pairs), pairs


def chat(path: Path, found: dict) -> None:
    """The ids of a chat are those of transformers."""
    from transformers import PreTrainedTokenizerFast  # AutoTokenizer replaces a file's own rules

    from nt_jax.checkpoints.chat_template import TEMPLATE_DATE

    tokenizer = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    asked = [{"role": "user", "content": "Hello, how are you?"}]
    theirs = tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, tokenize=True, return_dict=False,
        enable_thinking=False, date_string=TEMPLATE_DATE,
    )  # fmt: skip
    assert found["ids"] == list(theirs), (found["ids"], theirs)


def recipe(path: Path, found: dict) -> None:
    """Every plain value of the YAML stands in the settings."""
    import yaml

    for keys, value in _leaves(yaml.safe_load(path.read_text("utf-8")) or {}, ()):
        place: Any = found
        for key in keys:
            place = place[key]
        same = place == value or str(place) == str(value)
        assert same, (keys, value, place)


def _leaves(value: Any, keys: tuple) -> list[tuple[tuple, Any]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*keys, key))]
    return [(keys, value)] if isinstance(value, bool | int | float | str) else []


def factors(path: Path, found: bytes) -> None:
    """The factors of the file, by the safetensors library."""
    from safetensors import safe_open
    from safetensors.numpy import load_file

    file = path / "factors.safetensors"
    known = load_file(file)
    with safe_open(file, "np") as opened:
        about = opened.metadata()
    scale = np.ones((int(about["layers"]), int(about["neurons"])), np.float32)
    scale[known["layer"], known["index"]] = known["factor"]
    assert scale.tobytes() == found


def rows(read: Callable[[Path], list[dict]]) -> Callable[[Path, list], None]:
    """The requests are those that another reader of the format finds, in their order."""

    def check(path: Path, found: list) -> None:
        named = [
            {str(key).strip().lower(): value for key, value in row.items()} for row in read(path)
        ]
        theirs = [row["request"] for row in named if row]
        ours = [request for _, request, _, _ in found]
        assert ours == [text.strip() if isinstance(text, str) else text for text in theirs] or any(
            not isinstance(text, str) for text in theirs
        ), (ours, theirs)

    return check


def jsonl(path: Path) -> list[dict]:
    """By the standard library."""
    lines = path.read_bytes().decode("utf-8-sig").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def whole_json(path: Path) -> list[dict]:
    """By the standard library, one object a line where it is no list."""
    text = path.read_bytes().decode("utf-8-sig")
    try:
        value = json.loads(text)
        return value if isinstance(value, list) else [value]
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]


def comma_separated(path: Path) -> list[dict]:
    """By the standard library; lines that are empty are no rows."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [row for row in csv.DictReader(file) if any(row.values())]


def parquet(path: Path) -> list[dict]:
    """By pyarrow itself."""
    import pyarrow.parquet as pq

    return pq.read_table(path, page_checksum_verification=True).to_pylist()
