"""Records that stand on two sides at once: counted and said, since results are then too good."""

from collections.abc import Callable, Iterable
from typing import Any

from nt_jax.data.attacks import PARTS
from nt_jax.data.prompts import plain_text
from nt_jax.data.training import Parts


def repeat_lines(parts: Parts) -> list[str]:
    """A line for each kind of record that is on both sides of what should be apart.

    Texts are compared as `plain_text` has them: in one case, with single spaces.
    """
    train, validation = (parts[part] for part in PARTS)
    both = [row for part in parts.values() for row in part.harmful]
    harmless = [row for part in parts.values() for row in part.harmless]
    kinds = (
        ("requests are both harmful and harmless", both, harmless, _request),
        ("harmful requests are for both", train.harmful, validation.harmful, _request),
        ("harmless requests are for both", train.harmless, validation.harmless, _request),
        ("attack templates are for both", train.templates, validation.templates, _text),
    )
    found = []
    for what, one, other, text_of in kinds:
        if shared := _shared(one, other, text_of):
            first, second = shared[0]
            why = "tuning pulls both ways"
            if what.endswith("both"):
                what, why = f"{what} train and validation", "validation is too good"
            rows = f"first: row {first.id} and row {second.id}"
            found.append(f"{len(shared)} {what} ({rows}): {why}")
    return found


def _shared(
    one: Iterable[Any], other: Iterable[Any], text_of: Callable[[Any], str]
) -> list[tuple[Any, Any]]:
    """(row, its like) of every row of `one` whose text `other` has as well, each text once."""
    known: dict[str, Any] = {}
    for row in other:
        known.setdefault(plain_text(text_of(row)), row)
    pairs = {plain_text(text_of(row)): row for row in reversed([*one])}
    return [(row, known[text]) for text, row in reversed(pairs.items()) if text in known]


def _request(row: Any) -> str:
    return str(row.prompt)  # the turns before the request included


def _text(row: Any) -> str:
    return row.text
