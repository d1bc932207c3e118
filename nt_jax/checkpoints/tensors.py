"""Where each tensor of a checkpoint lies on disk, and safetensors files read and written by range.

The format is a length, a JSON table of (dtype, shape, byte range), then the bytes. We read the
table ourselves because export patches single tensors at their offsets.
"""

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from nt_jax.errors import CheckpointError, brief
from nt_jax.limits import HEADER_BYTES, parse_json

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
AGAIN = "Download it again."
_CHUNK = 1 << 22  # elements looked at together, so that temporaries stay small
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor: its storage type, shape in torch order, and byte range in `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> tuple[dict[str, TensorInfo], str | None]:
    """(name -> TensorInfo of a safetensors file, what is wrong with the file or None)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(len(_LFS))
        length = int.from_bytes(first[:8], "little")
        if first == _LFS:
            return {}, f"{path.name} is a Git LFS pointer, not the weights. Run `git lfs pull`."
        if size < 8 or length > size - 8:
            problem = f"{path.name} ({size:,} bytes) is cut short, or no safetensors file"
            return {}, f"{problem}. {AGAIN}"
        if length > HEADER_BYTES.value:
            problem = (
                f"{path.name} has a header of {length:,} bytes; at most {HEADER_BYTES.value:,}"
            )
            return {}, f"{problem} are read. {AGAIN}"
        file.seek(8)
        table = file.read(length)
    try:
        entries = parse_json(table, once=True)
        _check_metadata(entries.pop("__metadata__", None))
        infos = {name: _info(path, entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return {}, f"{path.name} has an unreadable header ({brief(error)}). {AGAIN}"
    promised = max((info.stop for info in infos.values()), default=8 + length)
    if size != promised:
        return infos, (
            f"{path.name} is {size:,} bytes long, but its header promises {promised:,}"
            f"{': it is cut short' if size < promised else ''}. {AGAIN}"
        )
    return infos, _overlap_or_hole(path, infos, 8 + length)


def _check_metadata(given: Any) -> None:
    """What the format allows, and the library reads: words by words, or none."""
    words = {} if given is None else given
    if not isinstance(words, dict) or any(type(value) is not str for value in words.values()):
        raise ValueError(f"__metadata__ of {given!r:.60} is no table of words")


def _info(path: Path, entry: dict[str, Any], data_start: int) -> TensorInfo:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    if not isinstance(dtype, str):
        raise ValueError(f"a dtype of {dtype!r:.60} is no word")
    if any(type(number) is not int or number < 0 for number in (*shape, start, stop)):
        raise ValueError(f"a shape of {list(shape)}, or its byte range, is not of whole numbers")
    if dtype in DTYPES and stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"a {dtype} tensor of shape {list(shape)} does not fill its byte range")
    if stop < start:
        raise ValueError(f"byte range {start}..{stop} runs backwards")
    return TensorInfo(path, dtype, shape, data_start + start, data_start + stop)


def _overlap_or_hole(path: Path, infos: dict[str, TensorInfo], start: int) -> str | None:
    """Two tensors on the same bytes, or bytes of none, as the format has it.

    Patching one of two would change the other; in a hole anything could be hidden.
    """
    ordered = sorted(infos.items(), key=lambda item: (item[1].start, item[1].stop))
    last, stop = "the header", start
    for name, info in ordered:
        if info.start < stop:
            return f"{path.name}: tensors '{last}' and '{name}' share bytes. {AGAIN}"
        if info.start > stop:
            hole = f"{info.start - stop:,} bytes before tensor '{name}' belong to none"
            return f"{path.name}: {hole}. {AGAIN}"
        last, stop = name, info.stop
    return None


def read_tensor(info: TensorInfo) -> np.ndarray:
    """The tensor in its stored dtype; a fresh array, so no file mapping outlives the call."""
    count = math.prod(info.shape)
    flat = np.fromfile(info.file, DTYPES[info.dtype], count=count, offset=info.start)
    if flat.size != count:
        raise CheckpointError(f"{info.file} became shorter while it was read. {AGAIN}")
    return flat.reshape(info.shape)


def all_finite(array: np.ndarray) -> bool:
    """Whether no element is NaN or infinite."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        if part.dtype == ml_dtypes.bfloat16:  # exponent bits all set; faster than its ufunc
            if ((part.view(np.uint16) & 0x7F80) == 0x7F80).any():
                return False
        elif not np.isfinite(part).all():
            return False
    return True


def write_safetensors(
    path: Path, shapes: dict[str, tuple[int, ...]], read: Callable[[str], np.ndarray]
) -> None:
    """A float32 safetensors file of the named tensors, each read, written and let go in turn."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        stop = offset + 4 * math.prod(shape)
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the data starts on a multiple of 8
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in shapes:
            file.write(np.ascontiguousarray(read(name), np.float32).data)


def write_ranges(path: Path, changes: Iterable[tuple[TensorInfo, np.ndarray]]) -> None:
    """Overwrite the byte ranges of some tensors in a file; every other byte stays."""
    with path.open("r+b") as file:
        for info, array in changes:
            file.seek(info.start)
            file.write(np.ascontiguousarray(array).view(np.uint8).data)
