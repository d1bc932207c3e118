"""Whether anything else got worse: paired changes of accuracy against a stated margin."""

from collections.abc import Sequence

from nt_jax.config.test_sets import Labels
from nt_jax.eval.metrics.result import BASE, ResultRow, find

CHANGE = "_change"
HELD, FELL, OPEN = "held", "FELL", "not settled"


def gate_lines(rows: Sequence[ResultRow], margin: float, labels: Labels) -> list[str]:
    """One line for each task or choice set that two models answered, in points of accuracy.

    Held: the whole 95 % interval of the paired change lies above -margin. Fell: all of it lies
    below. Otherwise the questions are too few to say.
    """
    lines = []
    for row in rows:
        metric = row.metric.removesuffix(CHANGE)
        before, after = (find(rows, row.dataset, metric, name) for name in (BASE, row.model))
        asked = metric != "refusal" and metric != row.metric
        if not asked or before is None or after is None or row.low is None or row.high is None:
            continue
        said = verdict(row.low, row.high, margin)
        lines.append(
            f"{labels[row.dataset]}, {metric}: {100 * before.value:.1f} % to "
            f"{100 * after.value:.1f} % ({row.model}), {100 * row.value:+.1f} points "
            f"({100 * row.low:+.1f} .. {100 * row.high:+.1f}) over {row.n} questions: {said}, "
            f"margin {100 * margin:g} points"
        )
    return lines


def verdict(low: float, high: float, margin: float) -> str:
    """HELD, FELL or OPEN of an interval of a change, all in 0..1."""
    if low >= -margin:
        return HELD
    return FELL if high < -margin else OPEN
