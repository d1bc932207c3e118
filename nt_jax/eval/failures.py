"""Prompts and judge calls that fail while a stage runs: marked, and tried again by the next run.

One of them does not end the stage: the rest is done, numbers are made of what there is, and the
stage is not finished as long as anything is marked (nt_jax/rundir.py).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from nt_jax import processes
from nt_jax.errors import CheckpointError, ConfigError, RunError, SomeFailedError, brief
from nt_jax.rundir import FAILED

Item = TypeVar("Item")
IN_A_ROW = 8  # failures without a success between them until one from the far end decides
# Not about one prompt: a disk, memory, the run itself (a server that does not answer), or what was
# asked for.
_PASSED_ON = (OSError, MemoryError, RunError, ConfigError, CheckpointError)


class Marks:
    """What failed in the stage that writes into `folder`; marks of an earlier run are deleted."""

    def __init__(self, folder: Path) -> None:
        self.path, self.count, self.in_a_row = folder / FAILED, 0, 0
        self.path.unlink(missing_ok=True)

    def add(self, rows: Sequence[dict], error: Exception) -> None:
        """Mark records with what they are known by, and why."""
        reason = f"{type(error).__name__}: {brief(error)}"
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row | {"error": reason}) + "\n" for row in rows)
        self.count += len(rows)


def in_parts(
    items: Sequence[Item],
    missing: Callable[[Sequence[Item]], Sequence[Item]],
    work: Callable[[Sequence[Item]], object],
    marks: Marks | None,
    known: Callable[[Item], dict],
) -> None:
    """`work` on all `items` at once; where it fails, on halves of those it left `missing`.

    A single one that fails is marked as `known` says; so are those of a SomeFailedError, whose
    places are those among what `work` was given. After many in a row the last of `items` is tried,
    and only if that fails as well are the others marked untried. Without `marks` nothing is caught.
    """
    left = missing(items)
    if not left:
        return
    if marks is not None and marks.in_a_row >= IN_A_ROW:
        marks.in_a_row = IN_A_ROW - 1  # what is tried alone counts once more if it fails
        in_parts(left[-1:], missing, work, marks, known)
        left = missing(left[:-1])
        if marks.in_a_row:
            untried = RuntimeError("not tried, after many failures")
            marks.add([known(item) for item in left], untried)
            return
        return in_parts(left, missing, work, marks, known)
    try:
        work(left)
        if marks is not None:
            marks.in_a_row = 0
    except SomeFailedError as error:
        if marks is None:
            raise
        marks.in_a_row = 0
        for place, reason in error.reasons.items():
            marks.add([known(left[place])], reason)
    except Exception as error:
        if marks is None or processes.several() or isinstance(error, _PASSED_ON):
            raise  # of several processes one would go another way than the rest
        still = missing(left)
        if len(still) < len(left):
            marks.in_a_row = 0
        if len(still) == 1:
            marks.in_a_row += 1
            marks.add([known(still[0])], error)
            return
        half = len(still) // 2
        for part in (still[:half], still[half:]):
            in_parts(part, missing, work, marks, known)
