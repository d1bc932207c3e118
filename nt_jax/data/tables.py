"""Rows of a file, a folder or a hub data set, read through the `datasets` library."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from nt_jax.data.bounds import check_bounds
from nt_jax.data.folders import data_files
from nt_jax.data.hub import read_hub
from nt_jax.data.library import library
from nt_jax.data.values import conversation_in
from nt_jax.errors import DataError, brief

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
_OPTIONS = {
    "from_csv": {"keep_default_na": False, "na_values": [""]},
    "from_text": {"encoding": "utf-8-sig"},  # without the mark that some editors begin a file with
}
Place = tuple[dict[str, Any], str | None, str]  # values, split, where


@dataclass(frozen=True)
class Row:
    """One row: its values, the split it belongs to (None when undivided), and where it stands.

    `number` counts from 1 through the whole source, so that it names the row whatever is chosen.
    """

    number: int
    values: dict[str, Any]
    split: str | None
    where: str

    @property
    def file(self) -> str:
        """The file or hub id that it stands in."""
        return self.where.rpartition(":")[0]


def read_table(source: str) -> list[Row]:
    """All rows of a path (JSON, JSONL, CSV, parquet, TXT, folder) or of a hub id, not empty.

    A hub id is `name`, `owner/name`, or `owner/name:config` where the data set has several configs.
    A column "split" divides the rows; else the file names of a folder (see `data_files`) or the
    splits of a hub data set do. Files and splits may differ in their columns.
    """
    path = Path(source).expanduser()
    if path.exists() and not path.is_dir():
        places = _file_places(path)
    elif path.is_dir():
        places = [
            place
            for file, split in data_files(path, READERS)
            for place in _file_places(file, split)
        ]
    elif _looks_like_path(source):
        raise DataError(f"{source}: no such file or directory.{_neighbour(path)}")
    else:
        splits = read_hub(source, READERS, _OPTIONS)
        places = [
            (row, split, f"{source}: row {n} of split '{split}'")
            for split, rows in splits.items()
            for n, row in enumerate(rows, 1)
        ]
    rows = [row for row in _number(places) if row.values]
    if not rows:
        raise DataError(f"{source}: the data set is empty. Give it at least one row.")
    return rows


def _file_places(path: Path, split: str | None = None) -> list[Place]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        tabs = " Save tables with tabs as CSV." * (path.suffix.lower() in (".tsv", ".tab"))
        raise DataError(
            f"{path}: cannot tell the format of '{path.suffix or path.name}'. "
            f"Name the file {', '.join('*' + suffix for suffix in READERS)}.{tabs}"
        )
    try:
        check_bounds(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as data: {brief(error)}.") from error
    with library(str(path)) as (datasets, scratch):
        read = getattr(datasets.Dataset, reader)
        one = glob.escape(str(path))  # the library takes a path for a pattern
        told = {"cache_dir": scratch, "keep_in_memory": True, **_OPTIONS.get(reader, {})}
        if reader == "from_csv":  # all cells are texts: "2" is an answer, too
            names = read(one, nrows=1, **told).column_names
            _check_head(path, names)
            told["features"] = datasets.Features.fromkeys(names, datasets.Value("string"))
        elif reader == "from_json":  # in one piece: the first gives each column its type
            told["chunksize"] = path.stat().st_size + 1
        values = read(one, **told).to_list()
    if reader == "from_text":  # a blank line counts, and is no row
        values = [row if row["text"].strip() else {} for row in values]
    lines = _line_numbers(path, len(values))
    where = [f"{path}:{n}" for n in lines] or [f"{path}: row {n + 1}" for n in range(len(values))]
    if reader == "from_csv":
        values = [_with_chats(row, at) for row, at in zip(values, where, strict=True)]
    return [(row, split, at) for row, at in zip(values, where, strict=True)]


def _with_chats(row: dict[str, Any], where: str) -> dict[str, Any]:
    """The row, the conversations in its cells read; a CSV has no other way to hold them."""
    found = dict(row)
    for column, cell in row.items():
        try:
            found[column] = conversation_in(column, cell)
        except ValueError as error:
            raise DataError(f"{where}: '{column}' {error}.") from error
    return found


def _check_head(path: Path, columns: Sequence[str]) -> None:
    """Raises a DataError where a CSV is cut by something else than commas, or not by all of them.

    Where rows have more cells than the head, pandas takes the first for an index, which moves all.
    """
    named = [name for name in columns if not name.startswith("__index_level_")]
    for mark, said in ((";", "semicolons"), ("\t", "tabs")):
        if len(named) == 1 and mark in named[0]:
            raise DataError(f"{path}: its cells are parted by {said}. Save it with commas.")
    if len(named) < len(columns):
        raise DataError(
            f"{path}: rows have more cells than the head has columns. Put texts that hold commas "
            'in quotes, with no blank before them ("...","..."), and end no row with a comma.'
        )


def _line_numbers(path: Path, count: int) -> list[int]:
    """The line of each row where a file holds one row a line; else nothing."""
    if path.suffix.lower() not in (".jsonl", ".txt"):
        return []
    keep_blank = path.suffix.lower() == ".txt"
    with path.open("rb") as lines:
        numbers = [n for n, line in enumerate(lines, 1) if keep_blank or line.strip()][:count]
    return numbers if len(numbers) == count else []


def _number(places: Iterable[Place]) -> list[Row]:
    """Rows in their order; a column "split" goes before the split that the place implies."""
    return [
        Row(number, values, _named_split(values) or split, where)
        for number, (values, split, where) in enumerate(places, 1)
    ]


def _named_split(values: dict) -> str | None:
    """What a column "split" says, in whatever capitals its name is written."""
    said = ((k, v) for k, v in values.items() if v is not None and v != "")
    named = (str(v) for k, v in said if str(k).strip().lower() == "split")
    return next(named, None)


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or Path(source).suffix.lower() in READERS


def _neighbour(path: Path) -> str:
    if path.is_symlink():
        return f" It is a link to {path.readlink()}, which is not there."
    folder = path.parent if path.parent.is_dir() else None
    names = sorted(entry.name for entry in folder.iterdir()) if folder else []
    near = get_close_matches(path.name, names, n=1, cutoff=0.5)
    if near:
        return f" Did you mean {path.parent / near[0]}?"
    return "" if folder else f" The folder {path.parent} does not exist either."
