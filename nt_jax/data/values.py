"""How the cell of a column becomes a field of a record; what is wrong with it is a ValueError."""

import ast
import contextlib
import re
from typing import Any

from nt_jax.data import records
from nt_jax.data.prompts import Prompt, read_messages
from nt_jax.limits import parse_json

SLOT_SPELLINGS = (records.SLOT, "[INSERT PROMPT HERE]")
_MESSAGES = re.compile(r"""\[\s*\{(?=.*["']role["']\s*:).*\}\s*\]""", re.DOTALL)


def read_text(value: Any) -> str | None:
    """A text, less the blanks around it; None where there is none."""
    if value is None or isinstance(value, str):
        return value.strip() if value else None
    raise ValueError(f"is {type(value).__name__}, not text")


def _prompt(value: Any) -> Prompt | None:
    """A text, or a list of messages that ends with the user's."""
    chat = isinstance(value, list | tuple) and all(isinstance(turn, dict) for turn in value)
    return read_messages(value) if chat else read_text(value)


def conversation_in(column: str, cell: Any) -> Any:
    """The messages that a cell of a CSV writes out, as JSON or as Python (pandas); else the cell.

    A ValueError where they cannot be read under a column called `messages`.
    """
    if not isinstance(cell, str) or not _MESSAGES.fullmatch(cell.strip()):
        return cell
    meant = column.strip().lower() == "messages"  # elsewhere what is no conversation is a text
    for read in (parse_json, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            found = read(cell.strip())
            if not meant:
                read_messages(found)
            return found
    if meant:
        raise ValueError("looks like a list of messages but cannot be read: write it as JSON")
    return cell


def _identity(value: Any) -> str | None:
    return None if value is None else str(value).strip()


def _flag(value: Any) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if not str(value).strip():
        return None
    flags = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    if str(value).strip().lower() in flags:
        return flags[str(value).strip().lower()]
    raise ValueError(f"is {value!r}, not true or false")


def _template_text(value: Any) -> str | None:
    text = read_text(value)
    if not text:
        return None
    for spelling in SLOT_SPELLINGS:
        text = text.replace(spelling, records.SLOT)
    if records.SLOT not in text:
        raise ValueError(f"has no slot: write {' or '.join(SLOT_SPELLINGS)} into it")
    return text


def _types(value: Any) -> tuple[str, ...]:
    labels = ",".join(map(str, value)) if isinstance(value, list) else read_text(value)
    return records.parse_attack_types(labels or "")


def _known_types(value: Any) -> tuple[str, ...]:
    """Types as tags of a template, where a misspelt one is an error."""
    types = _types(value)
    unknown = [name for name in types if name not in records.ATTACK_TYPES]
    if unknown:
        raise ValueError(f"names '{unknown[0]}'; the types are {', '.join(records.ATTACK_TYPES)}")
    return types


def _choice_texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        said = f"is {type(value).__name__}, not a list of texts, as JSON and parquet hold it"
        raise ValueError(said)
    return tuple(str(text).strip() for text in value)


def _choice_number(value: Any) -> int | None:
    """A choice counted from 0, or its letter."""
    text = str(value).strip()
    if value is None or not text:
        return None
    if text.isdecimal():
        return int(text)
    if len(text) == 1 and text in records.LETTERS:
        return records.LETTERS.index(text)
    raise ValueError(f"is {value!r}, neither a number from 0 nor a letter")


READ = {
    "id": _identity,
    "kind": _identity,
    "request": _prompt,
    "attacked": _prompt,
    "sounds_harmful": _flag,
    "text": _template_text,
    "types": _known_types,
    "attack_types": _types,
    "choices": _choice_texts,
    "key": _choice_number,
}
