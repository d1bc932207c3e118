"""Rows of a file, a directory or a hub data set, read through the `datasets` library."""

import json
import os
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import repeat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from nt_jax.errors import DataError

# Suffix -> the method of datasets.Dataset that reads it. `load_dataset("json", ...)` would do the
# same after telling the hub that it was used, which costs seconds where the network is slow.
READERS = {
    ".jsonl": "from_json",
    ".json": "from_json",
    ".csv": "from_csv",
    ".parquet": "from_parquet",
    ".txt": "from_text",
}
# "NA" and "null" are words that a request may consist of; only nothing at all is missing.
_OPTIONS = {"from_csv": {"keep_default_na": False, "na_values": [""]}}
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?(?::[\w.-]+)?")
_HUB_SECONDS = 5.0


@dataclass(frozen=True)
class Row:
    """One row: its values, the split it belongs to (None when undivided), and where it stands.

    `number` counts from 1 through the whole source, so that it names the row whatever is chosen.
    """

    number: int
    values: dict[str, Any]
    split: str | None
    where: str


def read_table(source: str) -> list[Row]:
    """All rows of a path (JSON, JSONL, CSV, parquet, TXT, directory) or of a hub id, not empty.

    A hub id is `name`, `owner/name`, or `owner/name:config` where the data set has several configs.
    A column "split" divides the rows; else the splits of a directory or a hub data set do.
    """
    path = Path(source).expanduser()
    if path.is_file():
        rows = _read_file(path)
    elif path.is_dir():
        rows = _read_splits(source, str(path), local=True)
    elif _looks_like_path(source):
        raise DataError(f"{source}: no such file or directory.{_neighbour(path)}")
    else:
        rows = _read_hub(source)
    if not rows:
        raise DataError(f"{source}: the data set is empty. Give it at least one row.")
    return rows


def _read_file(path: Path) -> list[Row]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: cannot tell the format of '{path.suffix or path.name}'. "
            f"Name the file {', '.join('*' + suffix for suffix in READERS)}."
        )
    if not path.read_bytes().strip():
        raise DataError(f"{path}: the file is empty. Give it at least one row.")
    with _library(str(path)) as (datasets, scratch):
        read = getattr(datasets.Dataset, reader)
        table = read(str(path), cache_dir=scratch, keep_in_memory=True, **_OPTIONS.get(reader, {}))
        values = table.to_list()
    lines = _line_numbers(path, len(values))
    where = [f"{path}:{n}" for n in lines] or [f"{path}: row {n + 1}" for n in range(len(values))]
    rows = _number(zip(values, repeat(None), where, strict=False))
    return [row for row in rows if row.values["text"].strip()] if reader == "from_text" else rows


def _line_numbers(path: Path, count: int) -> list[int]:
    """The line of each row where a file holds one row a line; else nothing."""
    if path.suffix.lower() not in (".jsonl", ".txt"):
        return []
    lines = path.read_bytes().split(b"\n")
    keep_blank = path.suffix.lower() == ".txt"
    numbers = [n for n, line in enumerate(lines, 1) if keep_blank or line.strip()][:count]
    return numbers if len(numbers) == count else []


def _read_splits(
    source: str, name: str, config: str | None = None, local: bool = False
) -> list[Row]:
    """The rows of a directory or a hub data set, whose splits the library finds."""
    with _library(source) as (datasets, scratch):
        # What comes from the hub stays in the user's cache; of local files no copy is left.
        cache = {"cache_dir": scratch, "keep_in_memory": True} if local else {}
        tables = datasets.load_dataset(name, config, **cache)
        values = {str(split): table.to_list() for split, table in tables.items()}
    return _number(
        (row, split, f"{source}: row {n} of split '{split}'")
        for split, rows in values.items()
        for n, row in enumerate(rows, 1)
    )


def _number(places: Iterable[tuple[dict, str | None, str]]) -> list[Row]:
    """Rows in their order; a column "split" goes before the split that the place implies."""
    return [
        Row(number, values, _named_split(values) or split, where)
        for number, (values, split, where) in enumerate(places, 1)
    ]


def _named_split(values: dict) -> str | None:
    """What a column "split" says, in whatever capitals its name is written."""
    named = (str(v) for k, v in values.items() if v and str(k).strip().lower() == "split")
    return next(named, None)


def _read_hub(source: str) -> list[Row]:
    if not _HUB_ID.fullmatch(source):
        raise DataError(
            f"'{source}' is neither 'demo', nor a file that exists, nor a hub id such as "
            "owner/name or owner/name:config."
        )
    name, _, config = source.partition(":")
    _require_hub(source)
    return _read_splits(source, name, config or None)


def _require_hub(source: str) -> None:
    """Fail within seconds when the hub is out of reach; the library would retry for half a minute.

    Not asked behind a proxy, nor under HF_HUB_OFFLINE, where the library answers from its cache.
    """
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    if offline or endpoint.scheme in getproxies() or not endpoint.hostname:
        return
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname, port), timeout=_HUB_SECONDS).close()
    except OSError as error:
        raise DataError(
            f"{source}: cannot reach the hub at {endpoint.hostname} ({error}), and no file of that "
            "name exists here. Name a local file, write 'demo' for the built-in set, or set "
            "HF_HUB_OFFLINE=1 to use the copy of an earlier download."
        ) from error


@contextmanager
def _library(source: str) -> Iterator[tuple[Any, str]]:
    """The `datasets` module and a throw-away cache; what it raises inside is one DataError."""
    import datasets  # here, because it costs most of a second
    from datasets.exceptions import DatasetsError

    with _quiet(datasets), tempfile.TemporaryDirectory() as scratch:
        try:
            yield datasets, scratch
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            raise DataError(_explain(source, error)) from error


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars and no log lines: what goes wrong is said once, by the DataError."""
    import huggingface_hub.utils as hub

    loggers = [(log, log.get_verbosity()) for log in (datasets.logging, hub.logging)]
    dataset_bars = datasets.is_progress_bar_enabled()
    hub_bars = not hub.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    hub.disable_progress_bars()
    for log, _ in loggers:
        log.set_verbosity(log.CRITICAL)
    try:
        yield
    finally:
        for log, level in loggers:
            log.set_verbosity(level)
        if dataset_bars:
            datasets.enable_progress_bars()
        if hub_bars:
            hub.enable_progress_bars()


def _explain(source: str, error: Exception) -> str:
    """One line: the broken line of a JSONL file if there is one, else what the library said."""
    path = Path(source).expanduser()
    if path.suffix.lower() == ".jsonl" and path.is_file():
        for number, line in enumerate(path.read_bytes().rstrip().split(b"\n"), 1):
            wrong = _wrong_line(line)
            if wrong:
                return f"{source}:{number}: {wrong}. Write one JSON object a line."
    reason = " ".join(str(error.__cause__ or error).split())
    if path.exists():
        return f"{source}: cannot be read as data: {reason}"
    return (
        f"{source}: the hub gives no such data set: {reason} Check the name at "
        "https://huggingface.co/datasets; for a gated one accept its terms there and log in."
    )


def _wrong_line(line: bytes) -> str:
    if not line.strip():
        return "blank line"  # the library bears these, but not beside columns of mixed types
    try:
        return "" if isinstance(json.loads(line), dict) else "not a JSON object"
    except ValueError as broken:
        return f"not valid JSON ({broken})"


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or Path(source).suffix.lower() in READERS


def _neighbour(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else None
    names = sorted(entry.name for entry in folder.iterdir()) if folder else []
    near = get_close_matches(path.name, names, n=1, cutoff=0.5)
    if near:
        return f" Did you mean {path.parent / near[0]}?"
    return "" if folder else f" The folder {path.parent} does not exist either."
