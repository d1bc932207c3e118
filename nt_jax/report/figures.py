"""The report's figures as PNG bytes. They are drawn without pyplot: no global state, no window."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nt_jax.config.test_sets import Labels
from nt_jax.eval.metrics.result import ResultRow, find, in_order

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
MODEL_COLOURS = ("#a8adb4", "#1668a8", "#d17a22", "#5b8c3a", "#8a5aa8", "#b5483f")
SET_COLOURS = {"safety": "#1668a8", "utility": "#d17a22"}
MODEL_NAMES = {"base": "before", "tuned": "after"}
DPI = 130


def bars_png(rows: Sequence[ResultRow], harmful: Mapping[str, bool], labels: Labels) -> bytes:
    """Refusals and entropies per dataset and model, with 95 % intervals.

    `harmful` says per dataset whether refusing is right, so that the picture can say it too;
    `labels` names datasets in words.
    """
    datasets = in_order(row.dataset for row in rows if row.metric == "refusal_rate")
    models = in_order(row.model for row in rows if row.metric == "refusal_rate")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(9.6, 1.6 * len(datasets)), 6.4), layout="constrained")
        refused, information = figure.subplots(2, 1)
        _grouped_bars(refused, rows, datasets, models, "refusal_rate", 100.0, "{:.0f} %")
        refused.set_title("Share of requests refused")
        refused.set_ylim(0, 112)
        refused.set_yticks(range(0, 101, 25), [f"{tick} %" for tick in range(0, 101, 25)])
        ticks = [_tick(name, harmful, labels) for name in datasets]
        refused.set_xticks(range(len(datasets)), ticks)
        _grouped_bars(information, rows, datasets, models, "entropy", 1.0, "{:.1f}")
        information.set_title("Information in the answers (bits)")
        information.set_ylim(0, information.get_ylim()[1] * 1.12)
        information.set_xticks(range(len(datasets)), [_wrapped(labels[name]) for name in datasets])
        shown = refused.get_legend_handles_labels()
        figure.legend(*shown, loc="outside lower center", ncols=len(models))
        return png(figure)


def layers_png(neurons: Mapping[str, Any]) -> bytes:
    """Chosen neurons per layer and their mean score, one line of panels a set (paper, Figure 3).

    `neurons` has arrays layer, set ("safety" or "utility") and score of equal length, and may
    have `num_layers`.
    """
    layer, score = np.asarray(neurons["layer"]), np.asarray(neurons["score"])
    kind = np.asarray(neurons["set"])
    total = int(neurons.get("num_layers") or layer.max(initial=0) + 1)
    kinds = in_order(kind.tolist())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.2 + 2.1 * len(kinds)), layout="constrained")
        panels = figure.subplots(len(kinds), 2, sharex=True, squeeze=False)
        for (counted, scored), name in zip(panels, kinds, strict=True):
            colour = SET_COLOURS.get(name, MODEL_COLOURS[3])
            chosen = layer[kind == name]
            count = np.bincount(chosen, minlength=total)
            sums = np.bincount(chosen, weights=score[kind == name], minlength=total)
            mean = sums / np.maximum(count, 1)
            counted.bar(range(total), count, color=colour, width=0.8)
            most = f"most in layer {count.argmax()} (from 0)"
            counted.set_title(f"{name}: {len(chosen)} neurons, {most}")
            counted.set_ylabel("neurons")
            drawn = np.flatnonzero(count)
            scored.plot(drawn, mean[drawn], color=colour, marker="o", markersize=3.5)
            scored.set_title(f"{name}: mean score of the chosen")
            scored.set_ylim(bottom=0 if mean.min(initial=0) >= 0 else None)
            for axes in (counted, scored):
                axes.grid(axis="y", color="#e6e6e6")
        for axes in panels[-1]:
            axes.set_xlabel("layer")
        return png(figure)


def cumulative_png(shares: Mapping[str, Any], chosen: Mapping[str, int]) -> bytes:
    """Share of all positive score in the n best neurons of each set, and where the choice ends."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        axes = figure.subplots()
        for number, (name, share) in enumerate(shares.items()):
            colour = SET_COLOURS.get(name, MODEL_COLOURS[3])
            axes.plot(np.arange(1, len(share) + 1), share, color=colour, label=name)
            count = min(chosen[name], len(share))
            axes.plot(count, share[count - 1], "o", color=colour)
            axes.annotate(
                f"{count:,} {name}: {share[count - 1]:.0%}",
                (count, share[count - 1]), (8, -14 * (number + 1)),
                textcoords="offset points", color=colour,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_ylim(0, 1.03)
        axes.set_title("Share of the positive score held by the best neurons")
        axes.set_xlabel("neurons, best first")
        axes.grid(color="#e6e6e6")
        axes.legend(loc="lower right")
        return png(figure)


def curves_png(history: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Losses, and measured shares such as validation SU-F1, over epochs; None without either.

    A key with "loss" in its name is a loss; one with "refus" or "su_f1" a share; `best: true`
    marks the epoch that was kept.
    """
    groups = {"Loss": ("loss",), "Validation": ("refus", "su_f1")}
    found = {title: _series(history, parts) for title, parts in groups.items()}
    found = {title: series for title, series in found.items() if series}
    if not found:
        return None
    best = [entry["epoch"] for entry in history if entry.get("best")]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, (title, series) in zip(panels, found.items(), strict=True):
            for number, (name, (epochs, values)) in enumerate(series.items()):
                colour = (MODEL_COLOURS[1:] + MODEL_COLOURS[:1])[number % len(MODEL_COLOURS)]
                marker = "o" if len(values) < 30 else None
                axes.plot(epochs, values, label=name, color=colour, marker=marker, markersize=3.5)
            if best:
                axes.axvline(best[-1], color="#555555", linestyle=":", label="kept")
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.set_ylim(bottom=0, top=1.03 if title == "Validation" else None)
            axes.grid(axis="y", color="#e6e6e6")
            axes.legend(fontsize=9)
        return png(figure)


def _grouped_bars(
    axes: Axes,
    rows: Sequence[ResultRow],
    datasets: Sequence[str],
    models: Sequence[str],
    metric: str,
    factor: float,
    template: str,
) -> None:
    """Draw one group of bars per dataset, one bar per model, value printed above its whisker."""
    width = 0.8 / max(len(models), 1)
    for number, model in enumerate(models):
        colour = MODEL_COLOURS[number % len(MODEL_COLOURS)]
        label = MODEL_NAMES.get(model, model)
        for place, dataset in enumerate(datasets):
            row = find(rows, dataset, metric, model)
            if row is None:
                continue
            x = place + (number - (len(models) - 1) / 2) * width
            value = factor * row.value
            ends = (row.value if end is None else end for end in (row.low, row.high))
            low, high = (factor * end for end in ends)
            axes.bar(x, value, width * 0.92, color=colour, label=label)
            whisker = [[max(value - low, 0)], [max(high - value, 0)]]
            axes.errorbar(x, value, whisker, color="#333333", capsize=3, linewidth=1)
            put = {"textcoords": "offset points", "ha": "center", "fontsize": 9}
            axes.annotate(template.format(value), (x, max(high, value)), (0, 3), **put)
            label = "_"  # one legend entry a model
    axes.grid(axis="y", color="#e6e6e6")


def _series(
    history: Sequence[Mapping[str, Any]], parts: Sequence[str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Readable name -> (epochs, values) of the numeric keys that contain one of `parts`."""
    keys = in_order(key for entry in history for key in entry)
    series = {}
    for key in keys:
        points = [(entry["epoch"], entry.get(key)) for entry in history if "epoch" in entry]
        points = [(x, y) for x, y in points if isinstance(y, int | float) and np.isfinite(y)]
        if points and any(part in key for part in parts):
            name = key.replace("_", " ").replace("su f1", "SU-F1")
            series[name] = ([x for x, _ in points], [y for _, y in points])
    return series


def _tick(dataset: str, harmful: Mapping[str, bool], labels: Labels) -> str:
    """The dataset's name with what would be good."""
    label = _wrapped(labels[dataset])
    if dataset not in harmful:
        return label
    return f"{label}\n(should be {'high' if harmful[dataset] else 'low'})"


def _wrapped(label: str) -> str:
    return textwrap.fill(label, 18, break_long_words=False)


def png(figure: Figure) -> bytes:
    """What is written to a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
