"""Pictures of what was measured: refusals, entropies, strengths, losses."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nt_jax.config.test_sets import Labels
from nt_jax.eval.metrics.result import BASE, TUNED, ResultRow, find, in_order
from nt_jax.report.figures import (
    INK,
    LINE,
    MODEL_COLOURS,
    SOFT,
    Panel,
    from_zero,
    legend_below,
    legend_columns,
    short,
    whole_ticks,
)

MODEL_NAMES = {BASE: "before", TUNED: "after"}  # where a model was tuned here
KINDS = {
    "refusal_attack": "harmful, attacked",
    "refusal_direct": "harmful, direct",
    "refusal_harmless": "harmless",
    "refusal_sounds_harmful": "only sounds harmful",
    "refusal_attacked_harmless": "harmless, attacked",
    "refusal_nested_harmless": "harmless, nested",
}  # what validation asks, in words
ATTACKED, NESTED = ("refusal_attack", "refusal_attacked_harmless"), ("refusal_nested_harmless",)
BARE = tuple(kind for kind in KINDS if kind not in (*ATTACKED, *NESTED))
LINES = (*MODEL_COLOURS[1:], MODEL_COLOURS[0])


def bars(rows: Sequence[ResultRow], harmful: Mapping[str, bool], labels: Labels) -> list[Panel]:
    """Refusals and entropies per test set and model, with 95 % intervals; [] without refusals.

    `harmful` says per test set whether refusing is right; `labels` names test sets in words.
    """
    datasets = in_order(row.dataset for row in rows if row.metric == "refusal_rate")
    models = in_order(row.model for row in rows if row.metric == "refusal_rate")
    if not datasets:
        return []
    good = {True: " (high is good)", False: " (low is good)", None: ""}
    plain = {name: short(labels[name]) for name in datasets}
    named = {name: f"{plain[name]}{good[harmful.get(name)]}" for name in datasets}
    words = MODEL_NAMES if TUNED in models else {}
    called = {model: str(words.get(model, model)) for model in models}
    shown = [*called.values()]
    below = -(-len(models) // legend_columns(shown, 3))  # lines of the legend
    height = 0.7 + 0.2 * below + len(datasets) * (0.22 + 0.2 * len(models))

    def refused(axes: Axes) -> None:
        axes.set_title("Share of requests refused")
        axes.set_xlim(0, 118)
        axes.set_xticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])
        _draw_bars(axes, rows, (named, called), "refusal_rate", 100.0, "{:.0f} %")

    def informative(axes: Axes) -> None:
        axes.set_title("Information in the answers (bits)")
        _draw_bars(axes, rows, (plain, called), "entropy", 1.0, "{:.2f}")
        axes.set_xlim(0, axes.get_xlim()[1] * 1.15)

    sides = f"per test set, {' and '.join(shown)}"
    return [
        Panel(f"Share of requests refused {sides}", height, refused),
        Panel(f"Entropy of the answers {sides}", height, informative),
    ]


def strengths(tried: Sequence[Mapping[str, Any]], before: Mapping[str, Any]) -> list[Panel]:
    """What validation refused at each strength that was tried; [] where none was.

    `tried` are the lines of strengths.jsonl, `kept: true` in the chosen one; `before` has the rates
    of the untuned model, which is strength 0.
    """
    rows = [{**before, "strength": 0.0}, *tried] if tried else []
    shows = "Refusals of each kind of validation request by strength"
    return _looked_at(rows, "strength", "strength of the factors (0 = untuned)", shows)


def lifts(tried: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """What validation refused at all lifts that were tried; [] where none was."""
    shows = "Refusals of validation requests, {}, by lift"
    words = "nats nearer a refusal, prompts {}"
    sides = {
        "lift": ("alone", BARE),
        "lift_attacked": ("inside attacks", ATTACKED),
        "lift_nested": ("inside nested attacks", NESTED),
    }
    found = []
    for name, (side, kinds) in sides.items():
        rows = [row for row in tried if name in row]  # earlier versions lifted fewer sides
        found += _looked_at(rows, name, words.format(side), shows.format(side), kinds)
    return found


def _looked_at(
    rows: Sequence[Mapping[str, Any]],
    name: str,
    label: str,
    shows: str,
    kinds: Sequence[str] = tuple(KINDS),
) -> list[Panel]:
    """Refusals of these kinds over the number `name`; [] where there is nothing to draw."""
    series = _series(sorted(rows, key=lambda row: row[name]), name, {k: k for k in kinds}, 100.0)
    kept = [row[name] for row in rows if row.get("kept")]
    if not series:
        return []

    def draw(axes: Axes) -> None:
        _draw_lines(axes, {KINDS[kind]: points for kind, points in series.items()}, kept)
        axes.set_title(f"Refused in validation, by {name.split('_')[0]} (%)")
        axes.set_xlabel(label)
        axes.set_ylim(0, 103)
        legend_below(axes, 2)

    return [Panel(shows, 3.4, draw)]


def curves(history: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """Losses, and measured shares such as validation SU-F1, over epochs; [] without either.

    A key with "loss" in its name is a loss; one with "refus" or "su_f1" a share; `best: true`
    marks the epoch that was kept.
    """
    keys = in_order(key for entry in history for key in entry)
    words = {key: key.replace("_", " ").replace("su f1", "SU-F1") for key in keys}
    best = [entry["epoch"] for entry in history if entry.get("best")][-1:]
    panels = []
    for title, parts, top in (("Loss", ("loss",), None), ("Validation", ("refus", "su_f1"), 1.03)):
        wanted = {key: words[key] for key in keys if any(part in key for part in parts)}
        series = {words[key]: xy for key, xy in _series(history, "epoch", wanted).items()}
        if any(len(x) > 1 for x, _ in series.values()) or (series and title == "Loss"):
            panels.append(Panel(f"{title} over epochs", 3.2, _epochs_of(title, series, best, top)))
    return panels


def _draw_bars(
    axes: Axes,
    rows: Sequence[ResultRow],
    of: tuple[Mapping[str, str], Mapping[str, str]],
    metric: str,
    factor: float,
    template: str,
) -> None:
    """A group of lying bars per test set under its name, the value behind each whisker."""
    named, models = of
    group = 1.1 + len(models)
    for place, (dataset, label) in enumerate(named.items()):
        top = place * group
        axes.text(0, top, label, va="center", fontsize=9.5)
        for number, model in enumerate(models):
            row = find(rows, dataset, metric, model)
            if row is None:
                continue
            y, value = top + 0.95 + number, factor * row.value
            ends = (row.value if end is None else end for end in (row.low, row.high))
            low, high = (factor * end for end in ends)
            colour = MODEL_COLOURS[number % len(MODEL_COLOURS)]
            name = models[model] if place == 0 else "_"
            axes.barh(y, value, 0.86, color=colour, label=name)
            whisker = [[max(value - low, 0)], [max(high - value, 0)]]
            axes.errorbar(value, y, xerr=whisker, color=INK, capsize=2.5, linewidth=1)
            put = {"textcoords": "offset points", "va": "center", "fontsize": 9}
            axes.annotate(template.format(value), (max(high, value), y), (4, 0), **put)
    axes.set_ylim(len(named) * group - 0.4, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_color(LINE)
    axes.grid(axis="x")
    legend_below(axes, 3)


def _epochs_of(
    title: str, series: Mapping[str, Any], best: Sequence[float], top: float | None
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        _draw_lines(axes, series, best)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        if top is None:
            from_zero(axes)
        else:
            axes.set_ylim(0, top)
        whole_ticks(axes)
        legend_below(axes, 2)

    return draw


def _draw_lines(axes: Axes, series: Mapping[str, Any], kept: Sequence[float]) -> None:
    """One line a series, few points with marks, and an upright line at what was kept."""
    for number, (name, (x, y)) in enumerate(series.items()):
        look = {"color": LINES[number % len(LINES)], "marker": "o" if len(x) < 30 else None}
        axes.plot(x, y, label=name, markersize=3.5, **look)
    for place in kept[-1:]:
        axes.axvline(place, color=SOFT, linestyle=":", label="kept")
    axes.grid(axis="y")


def _series(
    rows: Sequence[Mapping[str, Any]], axis: str, wanted: Mapping[str, Any], factor: float = 1.0
) -> dict[str, tuple[list[float], list[float]]]:
    """Key -> (x, y) of the finite numbers that the rows have under it."""
    series = {}
    for key in wanted:
        points = [(row[axis], row.get(key)) for row in rows if axis in row]
        points = [
            (x, factor * y) for x, y in points if isinstance(y, int | float) and np.isfinite(y)
        ]
        if points:
            series[key] = ([x for x, _ in points], [y for _, y in points])
    return series
