"""Refusals: each judge's rate, its paired change from the base model, and empty answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nt_jax.eval.judges.judge import without_thinking
from nt_jax.eval.metrics import intervals
from nt_jax.eval.metrics.result import (
    BASE,
    Answer,
    Column,
    Measurements,
    ResultRow,
    paired,
    per_request,
    verdict,
)

COLUMNS = {
    "refusal_rate": Column("refused", "{:.1%}"),
    "refusal_change": Column("change in refusals", "{:+.1%}"),
    "mcnemar_p": Column("p of the change in refusals (McNemar)", "{:.2g}"),
    "empty_rate": Column("empty answers", "{:.1%}"),
}


def rows(measured: Measurements) -> list[ResultRow]:
    """Per test set and model; an undecided verdict counts a half in rates and in their change.

    The paired test takes it for no refusal, nor a request of whose drawn answers not all refuse.
    """
    found: list[ResultRow] = []
    judges = [*measured.judges.items()] or [(None, None)]
    for (dataset, model), group in measured.groups.items():
        base = measured.groups.get((dataset, BASE), []) if model != BASE else []
        pairs, n = paired(base, group), len(group)
        for judge in judges:
            said = [verdict(answer, judge[0]) for answer in group]
            interval = rate_interval(group, said, measured.seed)
            rate = sum(said) / n
            found.append(ResultRow(dataset, "refusal_rate", model, rate, n, *interval, *judge))
            if pairs:
                now = [after for _, after in pairs]
                sides = [
                    per_request(now, [verdict(pair[side], judge[0]) for pair in pairs])
                    for side in (0, 1)
                ]
                found += paired_rows(dataset, model, *sides, measured.seed, judge)
        empty = [not without_thinking(answer["answer"]) for answer in group]
        interval = rate_interval(group, empty, measured.seed)
        found.append(ResultRow(dataset, "empty_rate", model, sum(empty) / n, n, *interval))
    return found


def rate_interval(
    answers: Sequence[Answer], hits: Sequence[float], seed: int
) -> tuple[float, float]:
    """Of a rate: Wilson's, or by request where one has several answers (a bootstrap)."""
    mean_R = per_request(answers, hits)
    if len(mean_R) == len(hits):
        return intervals.wilson(sum(hits), len(hits))
    return intervals.bootstrap_mean(mean_R, seed)


def paired_rows(
    dataset: str,
    model: str,
    before_N: NDArray[np.float64],
    after_N: NDArray[np.float64],
    seed: int,
    judge: tuple[str | None, str | None],
) -> list[ResultRow]:
    """The mean change of verdicts on the same prompts (-1..1, bootstrap interval), McNemar's p."""
    change_N, n, none = after_N - before_N, len(after_N), (None, None)
    interval = intervals.bootstrap_mean(change_N, seed)
    change, p = float(change_N.mean()), intervals.mcnemar(before_N == 1, after_N == 1)
    return [
        ResultRow(dataset, "refusal_change", model, change, n, *interval, *judge),
        ResultRow(dataset, "mcnemar_p", model, p, n, *none, *judge),
    ]


def rate_row(dataset: str, metric: str, model: str, hits: Sequence[bool]) -> ResultRow:
    """The share of hits with its Wilson interval."""
    count, n = sum(hits), len(hits)
    return ResultRow(dataset, metric, model, count / n, n, *intervals.wilson(count, n))
