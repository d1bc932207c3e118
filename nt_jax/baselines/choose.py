"""Choices made on validation data, never on the test set. R rows."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from nt_jax.errors import DataError

Choice = TypeVar("Choice")


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


def best_of(
    grid: Sequence[Choice], score: Callable[[Choice], float]
) -> tuple[Choice, list[tuple[Choice, float]]]:
    """(the choice of the highest score, every choice with its score); the first of equals."""
    if len(grid) == 0:
        raise DataError("There is nothing to choose from: the grid is empty.")
    table = [(choice, score(choice)) for choice in grid]
    return max(table, key=lambda row: row[1])[0], table
