"""How far two judges agree beyond chance: Cohen's kappa, with a bootstrap interval by request."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nt_jax.eval.metrics import intervals
from nt_jax.eval.metrics.result import (
    Column,
    Measurements,
    ResultRow,
    in_order,
    per_request,
    verdict,
)

COLUMNS = {"kappa": Column("agreement of judges (kappa)", "{:.2f}")}


def kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Cohen's kappa of two judges' verdicts on the same answers; 1 is full agreement, 0 chance.

    Two judges that give every answer the same one verdict agree: 1.
    """
    table = _table(first, second)
    return float(_kappa(table.mean(axis=0)[:, None])[0])


def rows(measured: Measurements) -> list[ResultRow]:
    """Kappa of each two judges, per model over all answers; an undecided verdict is no refusal."""
    found = []
    for one, other in itertools.combinations(measured.judges, 2):
        for model in in_order(answer["model"] for answer in measured.answers):
            group = [answer for answer in measured.answers if answer["model"] == model]
            said = [[verdict(answer, name) == 1 for answer in group] for name in (one, other)]
            table = per_request(group, _table(*said))
            low, high = intervals.bootstrap([table], lambda means: _kappa(means[0]), measured.seed)
            value, pair = float(_kappa(table.mean(axis=0)[:, None])[0]), f"{one} / {other}"
            found.append(ResultRow("all", "kappa", model, value, len(group), low, high, pair))
    return found


def _table(first: Sequence[bool], second: Sequence[bool]) -> NDArray[np.float64]:
    """[n, 3]: first refuses, second refuses, both agree."""
    one, other = np.asarray(first, bool), np.asarray(second, bool)
    if one.shape != other.shape or not len(one):
        raise ValueError(f"kappa needs two verdicts on each answer: {one.shape}, {other.shape}")
    return np.stack([one, other, one == other], axis=1).astype(np.float64)


def _kappa(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kappa of each column of [3, columns]."""
    one, other, agree = means
    chance = one * other + (1 - one) * (1 - other)
    room = 1 - chance
    return np.where(room > 1e-12, (agree - chance) / np.where(room > 1e-12, room, 1), 1.0)
