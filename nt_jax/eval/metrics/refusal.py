"""Refusals: each judge's rate, the paired test against the base model, and empty answers."""

from collections.abc import Sequence

from nt_jax.eval.judges.judge import without_thinking
from nt_jax.eval.metrics import intervals
from nt_jax.eval.metrics.result import BASE, Column, Measurements, ResultRow, paired, verdict

COLUMNS = {
    "refusal_rate": Column("refused", "{:.1%}"),
    "mcnemar_p": Column("p of the change in refusals (McNemar)", "{:.2g}"),
    "empty_rate": Column("empty answers", "{:.1%}"),
}


def rows(measured: Measurements) -> list[ResultRow]:
    """Per test set and model; an undecided verdict counts a half in rates, in pairs as none."""
    found: list[ResultRow] = []
    judges = [*measured.judges.items()] or [(None, None)]
    for (dataset, model), group in measured.groups.items():
        base = measured.groups.get((dataset, BASE), []) if model != BASE else []
        pairs, n = paired(base, group), len(group)
        for judge in judges:
            total = sum(verdict(answer, judge[0]) for answer in group)
            interval = intervals.wilson(total, n)
            found.append(ResultRow(dataset, "refusal_rate", model, total / n, n, *interval, *judge))
            if base:
                sides = [[verdict(pair[side], judge[0]) == 1 for pair in pairs] for side in (0, 1)]
                p, none = intervals.mcnemar(*sides), (None, None)
                found.append(ResultRow(dataset, "mcnemar_p", model, p, len(pairs), *none, *judge))
        empty = [not without_thinking(answer["answer"]) for answer in group]
        found.append(rate_row(dataset, "empty_rate", model, empty))
    return found


def rate_row(dataset: str, metric: str, model: str, hits: Sequence[bool]) -> ResultRow:
    """The share of hits with its Wilson interval."""
    count, n = sum(hits), len(hits)
    return ResultRow(dataset, metric, model, count / n, n, *intervals.wilson(count, n))
