"""Which records are for training, validation and testing, whatever their source says about it."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from nt_jax.data.records import AttackTemplate, HarmfulRequest, HarmlessRequest
from nt_jax.errors import DataError

Record = TypeVar("Record", HarmfulRequest, HarmlessRequest, AttackTemplate)
VALIDATION_PERCENT = 15


def divide(records: Sequence[Record], part: str, what: str) -> list[Record]:
    """The records of `part` ("train", "validation" or "test"); `what` names them in an error.

    A source with splits of its own keeps them. Without any, records are divided into training and
    validation by a hash of their text, so adding a row never moves another one across.
    """
    if any(record.split for record in records):
        chosen = [record for record in records if record.split == part]
    elif part == "test":
        raise DataError(f"data.{what} has no test split; name test sets under eval.datasets.")
    else:
        chosen = [record for record in records if (_bucket(record) < VALIDATION_PERCENT) == (
            part == "validation"
        )]  # fmt: skip
    if not chosen:
        raise DataError(
            f"data.{what}: none of its {len(records)} rows is for {part}. Give more rows, or rows "
            "with a 'split' column."
        )
    return chosen


def _bucket(record: HarmfulRequest | HarmlessRequest | AttackTemplate) -> int:
    text = record.text if isinstance(record, AttackTemplate) else record.request
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 100
