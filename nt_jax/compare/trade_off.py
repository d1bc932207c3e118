"""What every method refuses rightly against what it refuses wrongly: one point a method."""

import dataclasses
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from nt_jax.compare.results import Results
from nt_jax.eval.metrics.result import BASE, ResultRow, find
from nt_jax.report.figures import MODEL_COLOURS, STYLE, png

FIGURE = "trade_off.png"
MARKS = "osD^vP*X"
# There are more methods than kinds of model in a report.
COLOURS = (*MODEL_COLOURS, "#1f8a8a", "#c0579b", "#7a5c2e", "#444c56")


@dataclasses.dataclass(frozen=True)
class Point:
    """A method; numbers in percent, each (value, low, high)."""

    label: str
    rise: tuple[float, float, float]  # of refusals of the harmless set where it is largest
    refused: tuple[float, float, float]  # of the harmful set where it is least


def points(results: Results, models: Sequence[str]) -> list[Point]:
    """The models that have both numbers; the untuned one rises by nothing."""
    found = []
    for model in models:
        refused, rise = least_refused(results, model), largest_rise(results, model)
        if refused and rise:
            found.append(Point(results.labels[model], percent(rise), percent(refused)))
    return found


def least_refused(results: Results, model: str) -> ResultRow | None:
    """The lesser of the refusal rates under attack and of bare requests; None without both."""
    rows = [find(results.rows, d or "", "refusal_rate", model) for d in results.harmful_pair]
    known = [row for row in rows if row is not None]
    return min(known, key=lambda row: row.value) if len(known) == 2 else None


def largest_rise(results: Results, model: str) -> ResultRow | None:
    """The largest change of refusals among the harmless sets; None without any."""
    harmless = [name for name, harmful in results.harmful.items() if not harmful]
    if model == BASE:
        return ResultRow("", "refusal_change", model, 0.0, 0, 0.0, 0.0) if harmless else None
    rows = [find(results.rows, d, "refusal_change", model) for d in harmless]
    return max((row for row in rows if row), key=lambda row: row.value, default=None)


def percent(row: ResultRow) -> tuple[float, float, float]:
    """A rate and its interval, in percent."""
    ends = (row.value if end is None else end for end in (row.low, row.high))
    low, high = (100 * end for end in ends)
    return 100 * row.value, low, high


def explained(results: Results) -> str:
    """What the axes are, in words."""
    harmful = " and ".join(results.sets[d] for d in results.harmful_pair if d)
    harmless = ", ".join(results.sets[d] for d, wrong in results.harmful.items() if not wrong)
    return (
        f"Upwards: the lesser of the shares refused of {harmful}. To the right: the largest rise "
        f"over the untuned model among {harmless}, in points. Crosses: 95 % intervals of that set."
    )


def whisker(value: float, low: float, high: float) -> list[list[float]]:
    """How far an interval reaches below and above."""
    return [[max(value - low, 0)], [max(high - value, 0)]]


def trade_off_png(found: Sequence[Point]) -> bytes:
    """The points with their intervals as crosses; best is up and to the left."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 5.6), layout="constrained")
        axes = figure.subplots()
        for n, point in enumerate(found):
            colour = COLOURS[n % len(COLOURS)]
            axes.errorbar(
                point.rise[0], point.refused[0], xerr=whisker(*point.rise),
                yerr=whisker(*point.refused), color=colour, linewidth=1,
                marker=MARKS[n % len(MARKS)], markersize=7, label=point.label,
            )  # fmt: skip
        axes.axvline(0, color="#555555", linestyle=":", linewidth=1)
        axes.set_xlabel("largest rise in refused harmless requests (points)")
        axes.set_ylabel("refused, the lesser of attacked and bare harmful requests (%)")
        axes.set_title("Refused rightly and wrongly: up and left is better")
        axes.grid(color="#e6e6e6")
        figure.legend(loc="outside right upper", fontsize=9)
        return png(figure)
