"""The kinds of values that options take: (word of the command line) -> value, or its error."""

import argparse
import contextlib
import difflib
import math

from nt_jax.config.registry import FORMATS


def from_zero(word: str) -> float:
    """A finite number, 0 or above."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or a number above it, not {word!r}")
    return value


def above_zero(word: str) -> float:
    """A finite number above 0."""
    if not (value := from_zero(word)):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {word!r}")
    return value


def mesh(word: str) -> tuple[int, ...]:
    """(data, model) of a text like 2x4, or (data, model, fsdp) of one like 2x4x2."""
    with contextlib.suppress(argparse.ArgumentTypeError):
        sizes = tuple(map(count, word.lower().split("x")))
        if len(sizes) in (2, 3):
            return sizes
    wanted = "two or three whole numbers like 2x4 or 2x4x2"
    raise argparse.ArgumentTypeError(f"must be {wanted}, not {word[:80]!r}")


def count(word: str, least: int = 1) -> int:
    """A whole number from 1."""
    if not (word.isascii() and word.isdecimal() and len(word) < 10 and int(word) >= least):
        raise argparse.ArgumentTypeError(f"must be a whole number from {least}, not {word[:80]!r}")
    return int(word)


def place(word: str) -> int:
    """A whole number from 0."""
    return count(word, 0)


def formats(word: str) -> tuple[str, ...]:
    """The formats in a list with commas, each once."""
    names = tuple(dict.fromkeys(word.split(",")))
    for name in names:
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(FORMATS)}"
            raise argparse.ArgumentTypeError(f"unknown format {name!r}: {hint}")
    return names
