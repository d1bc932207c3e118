"""What depends on an untuned model and its inputs alone, kept on disk and shared between runs.

Slopes and own answers of a model are the same for every run that asks for them: minutes of work
that another seed, another number of neurons or another recipe need not repeat. An entry is named by
the sha256 of all that it depends on, and holds the sha256 of its content: a damaged one is made
anew. `NT_JAX_CACHE=off` does without; another value names the folder in place of
~/.cache/nt_jax/base.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nt_jax import processes
from nt_jax.atomic import write_atomic
from nt_jax.errors import RunError

VARIABLE, OFF = "NT_JAX_CACHE", "off"
VERSION = 2  # of how entries are made: another one makes all of them anew
Arrays = dict[str, np.ndarray]


def folder() -> Path | None:
    """Where entries lie; None where they are not kept."""
    said = os.environ.get(VARIABLE, "")
    if said.lower() in (OFF, "no", "false", "0"):
        return None
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(said) if said else Path(caches) / "nt_jax" / "base"


def kept(made_from: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """What `make` gives, or gave when everything in `made_from` (plain JSON) was the same."""
    text, where = json.dumps([VERSION, made_from], sort_keys=True), folder()
    path = where and where / f"{hashlib.sha256(text.encode()).hexdigest()}.npz"
    found = None if path is None else read(path)
    if not same_in_all(found) or found is None:  # asked where one does without, too
        found = make()
        if path is not None and processes.first():
            write(path, found)
    return found


def note(key: str) -> None:
    """Remember that the entries behind a stage's key are there, for estimates of time."""
    if (where := folder()) is not None:
        with contextlib.suppress(OSError, RunError):
            where.mkdir(parents=True, exist_ok=True)
            write_atomic(where / f"{key}.made", b"")


def noted(key: str) -> bool:
    """Whether `note` was told of it, and the cache was not emptied since."""
    return (where := folder()) is not None and (where / f"{key}.made").exists()


def same_in_all(found: Arrays | None) -> bool:
    """Whether every process has found these very arrays: they are made by all, or by none."""
    if not processes.several():
        return found is not None
    parts = [] if found is None else [found[name].tobytes() for name in sorted(found)]
    each = processes.every(hashlib.sha256(b"".join(parts)).hexdigest() if parts else "")
    return bool(each[0]) and len({*each}) == 1


def read(path: Path) -> Arrays | None:
    """The arrays of an entry; None where there is none, or not what was written."""
    try:
        content = path.read_bytes()
        digest, body = content[:64].decode(), content[64:]
    except (OSError, UnicodeDecodeError):
        return None
    if hashlib.sha256(body).hexdigest() != digest:
        return None
    with np.load(io.BytesIO(body)) as file:
        return {name: file[name] for name in file.files}


def write(path: Path, arrays: Arrays) -> None:
    """Keep an entry, whole or not at all; a disk that takes none only costs time later."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    body = buffer.getvalue()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, hashlib.sha256(body).hexdigest().encode() + body)
    except (OSError, RunError):
        return
