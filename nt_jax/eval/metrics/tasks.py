"""Tasks of lm-evaluation-harness: mean scores, and paired changes against the base model."""

import numpy as np

from nt_jax.eval.metrics import intervals
from nt_jax.eval.metrics.result import BASE, Column, Measurements, ResultRow, in_order, paired

COLUMNS: dict[str, Column] = {}  # metrics go by the names that their tasks give them


def rows(measured: Measurements) -> list[ResultRow]:
    """Per task, metric and model, with the change from the base model on the same questions.

    Scores lie in 0..1, more is better. A metric NAME has NAME_change and, where all scores
    are 0 or 1, NAME_mcnemar_p.
    """
    found = []
    for dataset, metric in in_order((row["dataset"], row["metric"]) for row in measured.tasks):
        scores = [r for r in measured.tasks if (r["dataset"], r["metric"]) == (dataset, metric)]
        base = [row for row in scores if row["model"] == BASE]
        for model in in_order(row["model"] for row in scores):
            mine = [row for row in scores if row["model"] == model]
            value_N = np.array([row["value"] for row in mine], float)
            if np.isin(value_N, (0, 1)).all():
                ends = intervals.wilson(value_N.sum(), len(value_N))
            else:
                ends = intervals.bootstrap_mean(value_N, measured.seed)
            found.append(ResultRow(dataset, metric, model, value_N.mean(), len(mine), *ends))
            pairs = paired(base, mine) if model != BASE else []
            if pairs:
                was_N, is_N = (
                    np.array([pair[n]["value"] for pair in pairs], float) for n in (0, 1)
                )
                found += change_rows(dataset, metric, model, was_N, is_N)
    return found


def change_rows(
    dataset: str,
    metric: str,
    model: str,
    before_N: np.ndarray,
    after_N: np.ndarray,
) -> list[ResultRow]:
    """The mean change of paired scores with its interval, and McNemar's p of right and wrong."""
    change_N = after_N - before_N
    ends, place = intervals.paired_change(change_N), (dataset, f"{metric}_change", model)
    found = [ResultRow(*place, float(change_N.mean()), len(change_N), *ends)]
    if np.isin([before_N, after_N], (0, 1)).all():
        p = intervals.mcnemar(before_N, after_N)
        found.append(ResultRow(dataset, f"{metric}_mcnemar_p", model, p, len(change_N)))
    return found
