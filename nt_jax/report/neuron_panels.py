"""Pictures of the chosen neurons: where they lie, their scores, how far they were turned."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nt_jax.eval.metrics.result import in_order
from nt_jax.report.figures import (
    MODEL_COLOURS,
    SET_COLOURS,
    SOFT,
    Panel,
    from_zero,
    legend_below,
    whole_ticks,
)

BINS = 40
TALL = 20  # neurons in a bin, from which on small bins would be too low to see


def layers(neurons: Mapping[str, Any]) -> list[Panel]:
    """Chosen neurons per layer and their mean score, two panels a set (paper, Figure 3).

    `neurons` has arrays layer, set ("safety" or "utility") and score of equal length, and may
    have `num_layers`.
    """
    layer, score = np.asarray(neurons["layer"]), np.asarray(neurons["score"])
    kind = np.asarray(neurons["set"])
    total = int(neurons.get("num_layers") or layer.max(initial=0) + 1)
    panels = []
    for name in in_order(kind.tolist()):
        mine = kind == name
        count = np.bincount(layer[mine], minlength=total)
        sums = np.bincount(layer[mine], weights=score[mine], minlength=total)
        drawn = np.flatnonzero(count)
        mean = sums[drawn] / count[drawn]
        colour = SET_COLOURS.get(name, MODEL_COLOURS[3])
        most = f"{name}: {mine.sum():,} neurons, most in layer {count.argmax()}"
        panels += [
            Panel(most, 2.4, _bars_of(most, "neurons", range(total), count, colour)),
            Panel(
                f"{name}: mean score of the chosen neurons in each layer", 2.4,
                _points_of(f"{name}: mean score of the chosen", drawn, mean, colour),
            ),
        ]  # fmt: skip
    return panels


def cumulative(
    shares: Mapping[str, Any], chosen: Mapping[str, int], held: Mapping[str, float]
) -> Panel:
    """Share of all positive score in the n best neurons of each set, and what the chosen hold.

    `held` is that share: below the curve where others than the best were chosen.
    """

    def draw(axes: Axes) -> None:
        for name, share in shares.items():
            colour = SET_COLOURS.get(name, MODEL_COLOURS[3])
            said = f"{name}: {chosen[name]:,} chosen hold {held[name]:.0%}"
            axes.plot(np.arange(1, len(share) + 1), share, color=colour, label=said)
            if chosen[name]:
                axes.plot(chosen[name], held[name], "o", color=colour)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.03)
        axes.set_title("Share of the positive score in the best")
        axes.set_xlabel("neurons, best first")
        axes.grid()
        legend_below(axes, 1)

    return Panel("Share of the positive score held by the best neurons", 3.2, draw)


def factors(neurons: Mapping[str, Any]) -> list[Panel]:
    """How far the factors moved from 1, per set; [] where `neurons` has no array factor."""
    if "factor" not in neurons:
        return []
    factor, kind = np.asarray(neurons["factor"], float), np.asarray(neurons["set"])
    edges = np.linspace(factor.min(), max(factor.max(), factor.min() + 1e-6), BINS + 1)

    def draw(axes: Axes) -> None:
        for name in in_order(kind.tolist()):
            colour = SET_COLOURS.get(name, MODEL_COLOURS[3])
            mine = factor[kind == name]
            said = f"{name}: median {np.median(mine):.2f}"
            axes.hist(mine, edges, histtype="step", linewidth=1.6, color=colour, label=said)
        axes.axvline(1, color=SOFT, linestyle=":", linewidth=1)
        axes.set_title("Factors of the neurons (1 = as before)")
        axes.set_ylabel("neurons")
        if axes.dataLim.y1 >= TALL:
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(axis="y")
        legend_below(axes, 2)

    return [Panel("Histogram of the factors of the chosen neurons", 2.8, draw)]


def _bars_of(title: str, unit: str, x: Any, y: Any, colour: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.bar(x, y, color=colour, width=0.8)
        axes.set_title(title)
        axes.set_ylabel(unit)
        _over_layers(axes)

    return draw


def _points_of(title: str, x: Any, y: Any, colour: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.plot(x, y, color=colour, marker="o", markersize=3.5)
        axes.set_title(title)
        if np.min(y, initial=0) >= 0:
            from_zero(axes)
        _over_layers(axes)

    return draw


def _over_layers(axes: Axes) -> None:
    axes.set_xlabel("layer (from 0)")
    whole_ticks(axes)
    axes.grid(axis="y")
