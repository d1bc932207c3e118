"""How a figure is drawn, once: as PNG for Markdown, as SVG inside HTML that follows dark mode.

A figure is a few panels, each drawn by a function of its axes. Drawn without pyplot: no global
state, no window.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Every colour of a figure; in an SVG each becomes the CSS variable of its name.
INK, SOFT, LINE = "#1f2328", "#59636e", "#d8dee4"
MODEL_COLOURS = ("#a8adb4", "#1668a8", "#d17a22", "#5b8c3a", "#8a5aa8", "#b5483f")
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line"} | {
    colour: f"series-{number}" for number, colour in enumerate(MODEL_COLOURS)
}
SET_COLOURS = {"safety": MODEL_COLOURS[1], "utility": MODEL_COLOURS[2]}
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a user's labels may hold "$"
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be selected, and follows the page's colour
    "svg.hashsalt": "nt_jax",  # the same figure is the same bytes
}
WIDTH = 4.8  # inches of a panel: 461 CSS pixels, two in a column of text, one on a phone
LETTERS, LINE_LETTERS = 44, 60  # of a label in it, and of a line of its legend
DPI = 130
_HEAD = re.compile(r"<svg .*?viewBox=\"([^\"]+)\".*?>", re.S)
_METADATA = re.compile(r" <metadata>.*?</metadata>\n", re.S)
_NAMED = re.compile(r"(?<=id=\")[^\"]+|(?<=href=\"#)[^\"]+|(?<=url\(#)[^)]+")


@dataclasses.dataclass(frozen=True)
class Panel:
    """One picture: what it shows in words, its height in inches, and who draws it."""

    shows: str
    height: float
    draw: Callable[[Axes], None]


def png(figure: Figure) -> bytes:
    """What is written to a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def panels_png(panels: Sequence[Panel], columns: int = 2) -> bytes:
    """The panels beside each other, row by row."""
    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    with matplotlib.rc_context(STYLE):
        size = (WIDTH * columns, sum(heights))
        figure = Figure(figsize=size, layout="constrained", facecolor="white")
        grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
        for axes, panel in zip(grid.flat, panels, strict=False):
            panel.draw(axes)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        return png(figure)


def panel_svg(panel: Panel, name: str) -> str:
    """The panel as an <svg> element for an HTML page; `name` sets its ids apart on the page.

    It is as wide as its place allows, and its colours are the page's variables --ink, --soft,
    --line and --series-0, --series-1, ...
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, panel.height), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        panel.draw(axes)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = _METADATA.sub("", text[text.index("<svg ") :])
    text = _NAMED.sub(lambda found: f"{name}-{found[0]}", text)
    shows = panel.shows.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    box = _HEAD.search(text)
    head = f'<svg viewBox="{box[1] if box else ""}" role="img" aria-label="{shows}">'
    text = head + text[box.end() if box else 0 :]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text.strip()


def whole_ticks(axes: Axes) -> None:
    """Ticks of the horizontal axis at whole numbers: layers, epochs."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def from_zero(axes: Axes) -> None:
    """The vertical axis from 0 to a little above all that is drawn, so that nothing is cut."""
    axes.set_ylim(0, 1.05 * max(axes.dataLim.y1, 0) or 1)


def legend_below(axes: Axes, columns: int) -> None:
    """The legend under the axis, where no curve runs; long names stand one below the other."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        under = 4.2 if axes.get_xlabel() else 2.6  # font sizes: below the ticks and their label
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": under}
        columns = legend_columns(labels, columns)
        axes.legend(handles, [short(label) for label in labels], ncols=columns, fontsize=9, **place)


def legend_columns(labels: Sequence[str], most: int) -> int:
    """How many labels fit beside each other."""
    longest = max(map(len, labels))
    return max(1, min(most, len(labels), LINE_LETTERS // (longest + 6)))


def short(name: str) -> str:
    """A name that fits a panel: its beginning and its end, which tell paths apart."""
    return (
        name if len(name) <= LETTERS else f"{name[: LETTERS // 2 - 1]}\u2026{name[-LETTERS // 2 :]}"
    )
