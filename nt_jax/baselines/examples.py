"""What methods that read states are fitted on, and a threshold on what they read. R rows."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from nt_jax.data.batching import draw
from nt_jax.data.records import Ids
from nt_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Examples:
    """One split of the data. Answers belong to the prompts of the same place.

    Prompts end where the answer begins. Answers end with EOS unless they were cut.
    """

    harmful: Sequence[Ids]  # prompts of harmful requests, attacked and direct
    refusals: Sequence[Ids]  # the safe answer to each harmful prompt
    harmless: Sequence[Ids]  # prompts of harmless requests
    answers: Sequence[Ids]  # the good answer to each harmless prompt

    def __post_init__(self):
        """Raises a DataError where the lists do not fit together."""
        for prompts, answers in (("harmful", "refusals"), ("harmless", "answers")):
            asked, given = len(getattr(self, prompts)), len(getattr(self, answers))
            if asked != given:
                raise DataError(
                    f"Examples.{prompts} has {asked} prompts, but Examples.{answers} has {given} "
                    "answers. Give one for each prompt."
                )
        for name in ("harmful", "refusals", "harmless", "answers"):
            rows = getattr(self, name)
            if not len(rows) or not all(map(len, rows)):
                raise DataError(
                    f"Examples.{name} is empty, or holds a row without tokens. "
                    "Leave such rows out and give at least one."
                )


def some(prompts: Sequence[Ids], most: int, seed: int, stream: str) -> list[Ids]:
    """At most so many of the prompts, drawn with the seed."""
    count = min(most, len(prompts))
    return [prompts[row] for row in draw(seed, stream, 0, len(prompts), count)]


def best_threshold(harmful_R: np.ndarray, harmless_R: np.ndarray) -> tuple[float, float]:
    """(threshold, balanced accuracy) of the rule "harmful where the score is above it".

    Balanced accuracy is the mean of the shares of harmful rows above and harmless rows not above.
    Of equally good thresholds the middle of the widest gap; where nothing separates, one that
    lets every row pass.
    """
    score_R = np.concatenate([harmful_R, harmless_R]).astype(np.float64)
    if len(harmful_R) == 0 or len(harmless_R) == 0 or not np.isfinite(score_R).all():
        raise DataError(
            f"A threshold needs finite scores of harmful and harmless validation prompts; "
            f"there are {len(harmful_R)} and {len(harmless_R)}. Give both, and check the model."
        )
    level_C = np.unique(score_R)
    middle_C = np.append((level_C[1:] + level_C[:-1]) / 2, level_C[-1])
    gap_C = np.append(np.diff(level_C), np.inf)  # above all: chosen before what does no better
    caught_C = (harmful_R[None] > middle_C[:, None]).mean(axis=1)
    passed_C = (harmless_R[None] <= middle_C[:, None]).mean(axis=1)
    accuracy_C = (caught_C + passed_C) / 2
    best = max(range(len(middle_C)), key=lambda c: (accuracy_C[c], gap_C[c]))
    return float(middle_C[best]), float(accuracy_C[best])
