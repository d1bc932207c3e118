"""What is known of a data file before a library unpacks it: that it ends, and how large it gets."""

import codecs
import json
import re
from pathlib import Path
from typing import Any

from nt_jax.limits import DATA_BYTES, DATA_CELLS, check_depth, check_file

_BLOCK = 1 << 20  # bytes
_ROWS = 32  # of a parquet file unpacked together while they are weighed
_CONTROL = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f]")  # in no place of JSON, unless escaped
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)  # where tabs and line feeds are as bad
_BEFORE = b" \t\n\r\xef\xbb\xbf"  # a row: white space, a mark of UTF-8
_SPACE = re.compile(rb"[\t\n\r]")


def check_bounds(path: Path) -> None:
    """Raises a ValueError or OSError for a file that is empty, endless, too large or too deep."""
    check_file(path, DATA_BYTES)
    if not _has_text(path):
        raise ValueError("the file is empty. Give it at least one row")
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl"):
        _refuse_utf16(path)
    if suffix == ".json":
        content = path.read_bytes()
        check_depth(content)
        if found := _CONTROL.search(content):
            raise ValueError(_unescaped(1 + content.count(b"\n", 0, found.start()), found[0]))
        for text in _TEXT.finditer(content):
            if found := _SPACE.search(text[0]):
                line = 1 + content.count(b"\n", 0, text.start() + found.start())
                raise ValueError(_unescaped(line, found[0], " within a text"))
        _check_rows(content.decode("utf-8-sig", "replace"))
    elif suffix == ".jsonl":
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    check_depth(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
                if found := _CONTROL.search(line):
                    raise ValueError(_unescaped(number, found[0]))
                if line.lstrip(_BEFORE).startswith(b"null"):  # pyarrow may die of it (_check_rows)
                    raise ValueError(f"line {number} is null. Leave it out")
    elif suffix == ".parquet":
        _check_parquet(path)


def _refuse_utf16(path: Path) -> None:
    """Raises a ValueError for what PowerShell's `>` writes, whose every other byte is a zero."""
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise ValueError("it is UTF-16. Save it as UTF-8")


def _unescaped(line: int, control: bytes, where: str = "") -> str:
    """What the reader takes for text, though no other does: a damaged byte, most often."""
    said = f"line {line}: byte 0x{control.hex()} has no place{where} in JSON"
    return f"{said}. Write it as \\u00{control.hex()}, or leave it out"


def _has_text(path: Path) -> bool:
    found, lines = False, 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found, lines = found or bool(block.strip()), lines + block.count(b"\n")
            if lines > DATA_CELLS.value:
                raise ValueError(f"it has more than {DATA_CELLS.value:,} lines")
    return found


def _check_rows(text: str) -> None:
    """Raises a ValueError where a row is null: pyarrow may die of it, and we with it."""
    decoder = json.JSONDecoder()
    read, at, number = decoder.raw_decode, _next(text, 0), 0
    if text.startswith("null", at):
        raise ValueError("row 1 is null. Leave it out")
    if text[at : at + 1] != "[":
        return
    while text[at : at + 1] in ("[", ","):
        number += 1
        try:
            value, at = read(text, _next(text, at + 1))
        except ValueError:  # an empty list, or what the library will say
            return
        if value is None:
            raise ValueError(f"row {number} is null. Leave it out")
        at = _next(text, at)


def _next(text: str, at: int) -> int:
    """Where the next letter that is no white space stands, from `at` on."""
    while text[at : at + 1].isspace():
        at += 1
    return at


def _check_parquet(path: Path) -> None:
    """Weigh a parquet file by what it says of itself, then by what its rows really take."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    too_large = f"it unpacks to more than {DATA_BYTES.value:,} {DATA_BYTES.unit}"
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            about = file.metadata
            cells = about.num_rows * about.num_columns
            if cells > DATA_CELLS.value:
                raise ValueError(f"it has {cells:,} cells; at most {DATA_CELLS.value:,} are read")
            groups = [about.row_group(n).total_byte_size for n in range(about.num_row_groups)]
            if sum(groups) > DATA_BYTES.value:
                raise ValueError(too_large)
            taken = 0
            for batch in file.iter_batches(batch_size=_ROWS, use_threads=False):
                taken += sum(_weight(column) for column in batch.columns)
                if taken > DATA_BYTES.value:
                    raise ValueError(too_large)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error


def _weight(column: Any) -> int:
    """Bytes of an Arrow array once every reference into a dictionary is written out."""
    import pyarrow as pa
    from pyarrow.compute import call_function

    kind = column.type
    if pa.types.is_dictionary(kind):
        values = column.dictionary
        try:
            sizes = call_function("binary_length", [values])
        except pa.ArrowException:  # no texts: each as much as the others
            return len(column) * values.nbytes // max(1, len(values))
        taken = sizes.take(column.indices).cast(pa.int64())
        return int(call_function("sum", [taken]).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(_weight(child) for child in column.flatten())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _weight(column.flatten())
    return int(column.nbytes)
