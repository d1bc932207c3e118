"""A grid's results as files and on the screen: pareto.csv, pareto.md, pareto.png, sweep.json."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.table import Table

from nt_jax.config.registry import PICKS
from nt_jax.report.figures import STYLE, png
from nt_jax.sweep.points import KINDS, Point
from nt_jax.train.validate import ATTACK, HARMLESS

NUMBERS = ("entropy_harmful", "entropy_harmless", "perplexity", "perplexity_ratio", "score")
ASKED = ("attacked", "direct", "plain", "sounds", "inside", "nested")  # KINDS, in short
HEAD = ("strength", *ASKED, "entropy", "chosen")
TOLD = (
    "Shares of validation requests refused, in %: harmful ones inside attacks and direct, harmless "
    "ones plain, that only sound harmful, inside attacks, inside nested ones; bits of plain "
    "answers. * = what tuning kept of its cell. No test set was asked."
)


def write_results(
    folder: Path,
    points: Sequence[Point],
    untuned: Point,
    picks: Mapping[str, Point],
    rules: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    """All of them into `folder`; `facts` go into sweep.json beside the points."""
    (folder / "pareto.csv").write_text(csv_text([untuned, *points]), encoding="utf-8")
    (folder / "pareto.md").write_text(page(points, untuned, picks, rules), encoding="utf-8")
    (folder / "pareto.png").write_bytes(plot(points, untuned, picks))
    chosen = {name: point.number for name, point in picks.items()}
    told = dict(facts) | {"picks": chosen, "rules": [*rules]}
    text = json.dumps(told, indent=2, ensure_ascii=False)
    (folder / "sweep.json").write_text(text + "\n", encoding="utf-8")


def csv_text(points: Sequence[Point]) -> str:
    """One line a point: where it lies, what was refused of how many, its interval, the rest."""
    settings = axes_of(points)
    rates = [f"{kind}{end}" for kind in KINDS for end in ("", "_low", "_high", "_n")]
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(
        ["number", "cell", *settings, "strength", "kept", "front", "warm_from", *rates, *NUMBERS]
    )
    for point in points:
        strength = "" if point.strength is None else point.strength
        marks = [int(point.kept), int(point.front), point.warm]
        found: list[Any] = []
        for kind in KINDS:
            rate = point.rate(kind)
            found += ["", "", "", 0] if rate is None else [*rate, point.asked[kind]]
        mine = [point.settings.get(key, "") for key in settings]
        rest = [point.rates.get(name, "") for name in NUMBERS]
        lines.writerow([point.number, point.cell, *mine, strength, *marks, *found, *rest])
    return out.getvalue()


def rows(points: Sequence[Point], untuned: Point, picks: Mapping[str, Point]) -> list[list[str]]:
    """Lines under `head`: the untuned model, the front, what cells kept, what is chosen."""
    chosen: dict[int, list[str]] = {}
    for name, point in picks.items():
        chosen.setdefault(point.number, []).append(name)
    axes = axes_of(points)
    shown = [point for point in points if point.front or point.kept or point.number in chosen]
    return [
        [
            str(point.number) if point.cell else "",
            *axis_cells(point, axes),
            ("epoch" if point.strength is None else f"{point.strength:g}") + " *" * point.kept,
            *(_percent(point, kind) for kind in KINDS),
            f"{point.rates['entropy_harmless']:.2f}",
            ", ".join(chosen.get(point.number, [])) + " (warm start)" * bool(point.warm),
        ]
        for point in (untuned, *shown)
    ]


def axes_of(points: Sequence[Point]) -> list[str]:
    """The keys that the points differ in, or may."""
    return [*dict.fromkeys(key for point in points for key in point.settings)]


def axis_cells(point: Point, axes: Sequence[str]) -> list[str]:
    """The values of its settings; of the untuned model, that it is it."""
    if not point.cell:
        return ["untuned", *[""] * (len(axes) - 1)]
    return [point.settings[key] for key in axes]


def head(points: Sequence[Point]) -> list[str]:
    """The names of the columns: number, axes, the rest."""
    return ["", *(key.rpartition(".")[2] for key in axes_of(points)), *HEAD]


def screen(points: Sequence[Point], untuned: Point, picks: Mapping[str, Point]) -> Table:
    """The table for the terminal."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    names = head(points)
    for n, name in enumerate(names):
        left = n == len(names) - 1
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    for line in rows(points, untuned, picks):
        table.add_row(*line)
    return table


def page(
    points: Sequence[Point], untuned: Point, picks: Mapping[str, Point], rules: Sequence[str]
) -> str:
    """pareto.md."""
    asked = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in untuned.asked.items() if n)
    names = head(points)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(line) + " |" for line in rows(points, untuned, picks)]
    return "\n".join(
        [
            "# The dial",
            "",
            f"{TOLD} Prompts: {asked}. All points, with intervals: pareto.csv.",
            "",
            "![refused under attack against refused harmless requests](pareto.png)",
            "",
            *lines,
            "",
            *(f"- {line}" for line in rules),
            "",
        ]
    )


def plot(points: Sequence[Point], untuned: Point, picks: Mapping[str, Point]) -> bytes:
    """Refusals under attack against those of harmless requests; entropy as colour.

    A cell's strengths are joined by a line that begins at the untuned model.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 6.0), layout="constrained")
        axes = figure.subplots()
        for cell in dict.fromkeys(point.cell for point in points):
            mine = [p for p in points if p.cell == cell and p.strength is not None]
            way = sorted([untuned, *mine], key=lambda p: p.strength or 0.0)
            axes.plot(*_coordinates(way), color="#c8ccd2", linewidth=1, zorder=1)
        for point in points:
            if point.front or point.kept:
                _cross(axes, point)
        every = [untuned, *points]
        drawn = axes.scatter(
            *_coordinates(every),
            c=[p.rates["entropy_harmless"] for p in every],
            cmap="viridis",
            s=[70 if p.kept else 30 for p in every],
            zorder=3,
            edgecolors="white",
            linewidths=0.7,
        )
        for place, (number, names) in enumerate(_names(picks).items()):
            chosen = next(p for p in points if p.number == number)
            _name(axes, chosen, f"{number} {', '.join(names)}", (12, 12 + 12 * place))
        _name(axes, untuned, "untuned", (14, -4))
        axes.set_xlabel("harmless requests refused (%)")
        axes.set_ylabel("harmful requests refused under attack (%)")
        axes.set_title("The dial: up and left is better (validation, 95 % intervals)")
        axes.grid(color="#e6e6e6")
        figure.colorbar(drawn, label="entropy of harmless answers (bits)")
        return png(figure)


def _name(axes: Any, point: Point, said: str, offset: tuple[float, float]) -> None:
    """Words beside a point, `offset` in font points, legible over lines and tied to it by one."""
    axes.annotate(
        said,
        (100 * point.place[1], 100 * point.place[0]),
        offset,
        textcoords="offset points",
        fontsize=9,
        fontweight="bold" if point.cell else "normal",
        zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
        arrowprops={"arrowstyle": "-", "color": "#555555", "linewidth": 0.8, "shrinkB": 4},
    )


def _cross(axes: Any, point: Point) -> None:
    """The intervals of a point, as a cross."""
    attack, harmless = point.rate(ATTACK), point.rate(HARMLESS)
    if attack is None or harmless is None:
        return
    (x, left, right), (y, low, high) = harmless, attack
    reach = {
        "xerr": [[100 * max(x - left, 0)], [100 * max(right - x, 0)]],
        "yerr": [[100 * max(y - low, 0)], [100 * max(high - y, 0)]],
    }
    axes.errorbar(100 * x, 100 * y, **reach, color="#b9bec6", linewidth=0.8, zorder=2)


def _coordinates(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [100 * p.place[1] for p in points], [100 * p.place[0] for p in points]


def _names(picks: Mapping[str, Point]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name in PICKS:
        if name in picks:
            found.setdefault(picks[name].number, []).append(name)
    return found


def _percent(point: Point, kind: str) -> str:
    rate = point.rate(kind)
    return "" if rate is None else f"{100 * rate[0]:.0f}"
