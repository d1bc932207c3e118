"""Which records are for training, validation and testing, whatever their source says about it."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from nt_jax.data.folders import as_usual
from nt_jax.data.records import AttackTemplate, HarmfulRequest, HarmlessRequest
from nt_jax.errors import DataError

Record = TypeVar("Record", HarmfulRequest, HarmlessRequest, AttackTemplate)
VALIDATION_PERCENT = 15


def divide(records: Sequence[Record], part: str, what: str) -> list[Record]:
    """The records of `part`, "train" or "validation"; `what` names them in an error.

    A source that has both splits keeps them. Otherwise its training rows (all of them, where it is
    one split or undivided) are divided by a hash of their text, so adding a row never moves another
    one across. Raises a DataError where no row is left, or some name a split and others none.
    """
    if {"train", "validation"} <= splits_of(records, what):
        chosen = [record for record in records if split_of(record) == part]
    else:
        rows, held_out = training_rows(records, what), part == "validation"
        lowest = min((bucket(_text(row)) for row in rows), default=0) if len(rows) > 1 else 0
        most = max(VALIDATION_PERCENT, lowest + 1)  # few rows may all have a high number
        chosen = [row for row in rows if (bucket(_text(row)) < most) == held_out]
    if not chosen:
        raise DataError(
            f"data.{what}: none of its {len(records)} rows is for {part}. Give more rows, or rows "
            "with a 'split' column."
        )
    return chosen


def training_rows(records: Sequence[Record], what: str) -> list[Record]:
    """The rows of the split train, or all of them where there is one split or none."""
    splits = splits_of(records, what)
    if len(splits) > 1 and "train" not in splits:
        raise DataError(
            f"data.{what}: no split is called train. Name the one to tune on, of "
            f"{', '.join(sorted(map(str, splits)))}: data.{what}.split=NAME."
        )
    return [record for record in records if split_of(record) == "train" or len(splits) == 1]


def splits_of(records: Sequence[Record], what: str) -> set[str | None]:
    """The splits that the records name, or None alone; a DataError where only some name one."""
    named = [split_of(record) for record in records]
    if (blank := named.count(None)) not in (0, len(named)):
        raise DataError(
            f"data.{what}: {blank} of its {len(named)} rows name no split, the others do. Name one "
            "in the column 'split' of every row, or leave the column out."
        )
    return set(named)


def split_of(record: HarmfulRequest | HarmlessRequest | AttackTemplate) -> str | None:
    """train, validation or test for their usual other names (Train, val, dev), else its split."""
    return as_usual(record.split or "") or None


def bucket(text: str) -> int:
    """0 to 99, by a hash of the text."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 100


def _text(record: HarmfulRequest | HarmlessRequest | AttackTemplate) -> str:
    return record.text if isinstance(record, AttackTemplate) else record.request
