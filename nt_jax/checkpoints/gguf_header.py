"""What a GGUF file announces, looked at before the `gguf` package reads it.

That package believes every count: 49 bytes that promise an array of 2**60 values keep it busy for
ever. Layout: magic, version, counts; then (key, type, value) pairs and (name, sizes, type, offset).
"""

import struct
from pathlib import Path
from typing import BinaryIO

from nt_jax.limits import GGUF_TENSORS, GGUF_VALUES

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type -> bytes
DIMENSIONS = 4  # of a tensor, as ggml has it
LONGEST = 1 << 24  # bytes of one text: a chat template has some thousand


def check_header(path: Path) -> None:
    """Raises a ValueError where counts, lengths or sizes cannot be those of a model.

    Files of the other byte order are left to the reader.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        scan = _Scan(file, size)
        if scan.take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        (version,) = struct.unpack("<I", scan.take(4))
        if version & 0xFFFF == 0:
            return
        tensors, pairs = scan.number(), scan.number()
        if tensors > GGUF_TENSORS.value:
            raise ValueError(f"it announces {tensors:,} tensors")
        scan.count(pairs)
        for _ in range(pairs):
            scan.skip_text()
            scan.skip_value(scan.kind())
        for _ in range(tensors):
            scan.skip_tensor()


class _Scan:
    """A place in a file that is known to be `size` bytes long, and how many values were met."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.at, self.values = file, size, 0, 0

    def take(self, length: int) -> bytes:
        self.at += length
        if self.at > self.size:
            raise ValueError("it ends within its header")
        return self.file.read(length)

    def skip(self, length: int) -> None:
        self.at += length
        if self.at > self.size:
            raise ValueError("it ends within its header")
        self.file.seek(self.at)

    def number(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def kind(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def count(self, more: int) -> None:
        self.values += more
        if self.values > GGUF_VALUES.value:
            raise ValueError(f"it announces {self.values:,} values of metadata")

    def skip_text(self) -> None:
        length = self.number()
        if length > LONGEST:
            raise ValueError(f"it announces a text of {length:,} bytes")
        self.skip(length)

    def skip_value(self, kind: int, within: bool = False) -> None:
        if kind == STRING:
            self.skip_text()
        elif kind == ARRAY and not within:
            inner, length = self.kind(), self.number()
            self.count(length)
            if inner in SIZES:
                self.skip(length * SIZES[inner])
                return
            for _ in range(length):
                self.skip_value(inner, within=True)
        elif kind in SIZES:
            self.skip(SIZES[kind])
        else:
            raise ValueError(f"its metadata hold a value of the unknown type {kind}")

    def skip_tensor(self) -> None:
        self.skip_text()
        dimensions = self.kind()
        if dimensions > DIMENSIONS:
            raise ValueError(f"it announces a tensor of {dimensions:,} dimensions")
        elements = 1
        for _ in range(dimensions):
            elements *= self.number()
        if elements > self.size * 8:  # no storage type has less than a bit for one
            raise ValueError(f"it announces a tensor of {elements:,} numbers")
        self.skip(12)
