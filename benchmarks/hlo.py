"""The text of a compiled program: computations, instructions, shapes and their sizes."""

import dataclasses
import math
import re

SIZES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "token": 0,
}  # fmt: skip
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{")
LINE = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
LAYOUT = re.compile(r"\{[\d,:TSE()]*\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    root: bool
    name: str
    shape: str
    op: str
    inside: str  # between its brackets
    rest: str  # what follows them

    @property
    def operands(self) -> list[str]:
        """Names."""
        return re.findall(r"%([\w.\-]+)", self.inside)

    def called(self, attribute: str) -> str:
        """The computation that an attribute names."""
        found = re.search(rf"{attribute}=%?([\w.\-]+)", self.rest)
        assert found, f"{self.name} names no {attribute}"
        return found.group(1)


def size_of(shape: str) -> int:
    """Bytes of an array or a tuple."""
    parts = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(SIZES[kind] * math.prod(map(int, filter(None, n.split(",")))) for kind, n in parts)


def sizes_of(shape: str) -> list[int]:
    """The axes of an array."""
    found = re.search(r"\w+\[([\d,]*)\]", shape)
    return [int(n) for n in found.group(1).split(",") if n] if found else []


def _closed(text: str) -> int:
    """Where the bracket that is open before `text` closes."""
    depth = 1
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return place
    return len(text)


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(computations by name, the name of the first one)."""
    found, current, entry = {}, None, ""
    for line in text.splitlines():
        if header := HEADER.match(line):
            current = found.setdefault(header.group(2), [])
            entry = header.group(2) if header.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := LINE.match(re.sub(r"/\*.*?\*/", "", line))):
            root, name, shape, op, rest = match.groups()
            end = _closed(rest)
            shape = LAYOUT.sub("", shape)
            current.append(Instruction(bool(root), name, shape, op, rest[:end], rest[end + 1 :]))
    return found, entry
