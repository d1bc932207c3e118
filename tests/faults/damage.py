"""Damage as hypothesis draws it: bytes, JSON values of any kind, and payloads that must not run."""

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

CANARY = "CANARY"  # a file that only code from an input would make
CODE = f"import pathlib; pathlib.Path({CANARY!r}).touch()"
PAYLOADS = (
    "../../outside", "/etc/passwd", "/dev/zero", "a\x00b", "x" * 5000, "[/y]", "\U0001f600", "",
    f"__import__('pathlib').Path('{CANARY}').touch()",
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch " + CANARY + "') }}",
)  # fmt: skip
TEXTS = st.sampled_from(PAYLOADS) | st.text(max_size=12)
NUMBERS = (
    st.integers(-3, 40)
    | st.sampled_from([2**31, 2**63, 2**64, 10**30, -(2**63), 32.0, 1e308, 1e-320])
    | st.floats()
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=6,
)


def bytes_of(data: st.DataObject, content: bytes, front: int = 0) -> bytes:
    """Some bytes changed, lost, doubled or added, often within the first `front`."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        near = front and data.draw(st.booleans())
        top = min(len(changed), front) if near else len(changed)
        place = data.draw(st.integers(0, max(0, top - 1)))
        match data.draw(st.sampled_from(["set", "flip", "cut", "add", "drop", "twice", "zero"])):
            case "set" if changed:
                changed[place] = data.draw(st.integers(0, 255))
            case "flip" if changed:
                changed[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del changed[place:]
            case "add":
                changed[place:place] = data.draw(st.binary(min_size=1, max_size=20))
            case "drop":
                del changed[place : place + data.draw(st.integers(1, 40))]
            case "twice":
                changed[place:place] = changed[place : place + data.draw(st.integers(1, 200))]
            case "zero":
                size = len(changed[place : place + 16])
                changed[place : place + size] = bytes(size)
            case _:
                pass
    return bytes(changed)


def json_of(data: st.DataObject, value: Any) -> Any:
    """One to three values of a JSON document exchanged, deleted, renamed or added."""
    changed = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 3))):
        holder, key = _place(data, changed)
        if holder is None:
            return data.draw(VALUES)
        match data.draw(st.sampled_from(["set", "set", "delete", "rename", "wrap"])):
            case "set":
                holder[key] = data.draw(VALUES)
            case "delete":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[data.draw(TEXTS)] = holder.pop(key)
            case _:
                holder[key] = data.draw(st.sampled_from([[holder[key]], {"a": holder[key]}]))
    return changed


def _place(data: st.DataObject, value: Any) -> tuple[Any, Any]:
    """(a list or dict somewhere in the document, one of its keys), or (None, None)."""
    holder = value
    for _ in range(4):
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return None, None
        key = data.draw(st.sampled_from(keys[:60]))
        inner = holder[key]
        deeper = isinstance(inner, list | dict) and inner and data.draw(st.booleans())
        if not deeper:
            return holder, key
        holder = inner
    return None, None


def json_file(data: st.DataObject, path: Path) -> None:
    """Damage a JSON file by its values, now and then by its bytes."""
    content = path.read_bytes()
    if data.draw(st.integers(0, 3)) == 0:
        path.write_bytes(bytes_of(data, content))
    else:
        path.write_text(dumps(json_of(data, json.loads(content))), "utf-8")


def dumps(value: Any) -> str:
    """JSON as Python writes it, with NaN and lone surrogates as escapes."""
    return json.dumps(value)
