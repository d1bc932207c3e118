"""GGUF files written: typed metadata, then tensors one at a time, and the Modelfile beside them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from nt_jax.errors import CheckpointError

KINDS = {
    np.dtype(np.float32): GGMLQuantizationType.F32,
    np.dtype(np.float16): GGMLQuantizationType.F16,
}


class Stored(NamedTuple):
    """A tensor to write: its shape in torch order, type, bytes, and how to get it then."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    size: int
    read: Callable[[], np.ndarray]  # of any dtype that has these bytes in a row


class Value(NamedTuple):
    """A value of the metadata, with its type in the file."""

    value: Any
    kind: GGUFValueType
    item: GGUFValueType | None = None  # of an array


def typed(value: Any) -> Value:
    """A Python value as llama.cpp stores it: 32-bit numbers, texts, lists of one kind."""
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    kinds |= {str: GGUFValueType.STRING}
    if not isinstance(value, list):
        return Value(value, kinds[type(value)])
    kinds[int] = GGUFValueType.INT32
    return Value(value, GGUFValueType.ARRAY, kinds[type(value[0])])


def copied(reader: GGUFReader) -> dict[str, Value]:
    """The metadata of a file as it is, but for what a writer adds itself."""
    found = {}
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            item = entry.types[-1] if entry.types[0] == GGUFValueType.ARRAY else None
            if item is not None and not entry.contents():
                continue  # an empty list has no type to write
            found[name] = Value(entry.contents(), entry.types[0], item)
    return found


def write_gguf(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Value],
    tensors: Mapping[str, Stored],
    alignment: int = 32,
) -> None:
    """A GGUF file; tensors are read, written and let go in turn."""
    writer = GGUFWriter(path, architecture)
    writer.data_alignment = alignment
    for name, value in metadata.items():
        writer.add_key_value(name, *value)
    for name, stored in tensors.items():
        writer.add_tensor_info(
            name, stored.shape, np.dtype(np.float32), stored.size, raw_dtype=stored.kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, stored in tensors.items():
        array = np.ascontiguousarray(stored.read())
        if array.nbytes != stored.size:
            raise CheckpointError(f"{path.name}: '{name}' has another size than was announced.")
        writer.write_tensor_data(array)
    writer.close()


def plain(array: np.ndarray) -> Stored:
    """An array in memory, float32 or float16."""
    return Stored(array.shape, KINDS[array.dtype], array.nbytes, lambda: array)


def write_modelfile(folder: Path, **lines: str) -> None:
    """Ollama's recipe of a model: FROM a file, ADAPTER another."""
    text = "".join(f"{word.upper()} {value}\n" for word, value in lines.items())
    (folder / "Modelfile").write_text(text, "utf-8")
