"""One table of numbers with intervals and the paper's figures, as Markdown, CSV and LaTeX."""

import csv
import dataclasses
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import rich.table

NOT_REACHED = "†"
UNREACHED_NOTE = f"{NOT_REACHED} the paper's figure is better than ours."
PAST_BOUND = "‡"
PAST_BOUND_NOTE = (
    f"{PAST_BOUND} no setting tried keeps refusals of validation requests, harmless and "
    "harmful, and perplexity within their limits; the one that comes nearest stands here."
)

ESCAPED = str.maketrans(  # what TeX would take for commands, or does not know
    {sign: f"\\{sign}" for sign in "&%_#${}"}
    | {"\\": r"\textbackslash ", "~": r"\textasciitilde ", "^": r"\^{}", "↑": r"$\uparrow$"}
    | {"↓": r"$\downarrow$", NOT_REACHED: r"$^\dagger$", PAST_BOUND: r"$^\ddagger$"}
)


@dataclass(frozen=True)
class Column:
    """What a column shows: its heading, how a number is printed, and which way is better."""

    title: str
    template: str = "{:.2f}%"
    better: Literal["higher", "lower"] | None = None

    @property
    def heading(self) -> str:
        """The title with an arrow to the better side."""
        return self.title + {"higher": " ↑", "lower": " ↓", None: ""}[self.better]


@dataclass(frozen=True)
class Cell:
    """A number in the units that are printed, its 95 % interval and count, and the paper's figure.

    A cell without a value says in `note` why there is none; `paper` stays all the same.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    paper: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Numbered as in the paper."""

    number: str
    title: str
    columns: list[Column]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str] = field(default_factory=list)
    past_bound: list[str] = field(default_factory=list)  # labels of rows or columns to be marked

    def marked(self, label: str) -> str:
        """The label of a row or a column with its mark, if it has one."""
        return f"{label} {PAST_BOUND}" if label in self.past_bound else label

    @property
    def headings(self) -> list[str]:
        """What stands above the columns."""
        return [
            dataclasses.replace(column, title=self.marked(column.title)).heading
            for column in self.columns
        ]

    @property
    def all_notes(self) -> list[str]:
        """`notes`, why cells are empty, and what the marks of numbers and labels mean."""
        notes = [*self.notes, *(f"({mark}) {note}" for note, mark in self.marks.items())]
        if any(reached(c, k) is False for _, row in self.rows for c, k in self.pairs(row)):
            notes.append(UNREACHED_NOTE)
        return notes + ([PAST_BOUND_NOTE] if self.any_past_bound else [])

    @property
    def any_past_bound(self) -> bool:
        """Whether a label carries the mark."""
        labels = {label for label, _ in self.rows} | {column.title for column in self.columns}
        return not labels.isdisjoint(self.past_bound)

    @property
    def marks(self) -> dict[str, str]:
        """Why cells are empty, in order of appearance, and the letter that stands for it."""
        notes = dict.fromkeys(cell.note for _, cells in self.rows for cell in cells if cell.note)
        return {note: chr(ord("a") + place) for place, note in enumerate(notes)}

    def pairs(self, cells: list[Cell]) -> Iterator[tuple[Cell, Column]]:
        """The cells of a row, each with its column."""
        return zip(cells, self.columns, strict=True)

    def texts(self) -> list[tuple[str, list[str]]]:
        """The rows in words, their labels with marks."""
        marks = self.marks
        return [
            (self.marked(label), [_text(*pair, marks) for pair in self.pairs(cells)])
            for label, cells in self.rows
        ]


def reached(cell: Cell, column: Column) -> bool | None:
    """Whether ours is at least as good as the paper's figure, as printed; None without both."""
    if cell.value is None or cell.paper is None or column.better is None:
        return None
    ours, theirs = (float(column.template.format(x).strip("% ")) for x in (cell.value, cell.paper))
    return ours >= theirs if column.better == "higher" else ours <= theirs


def markdown(table: Table) -> str:
    """A heading, the table and its notes."""
    heads = table.headings
    lines = [
        f"## Table {table.number}: {table.title}\n",
        f"| | {' | '.join(heads)} |",
        f"|---|{'--:|' * len(heads)}",
    ]
    lines += [f"| {label} | {' | '.join(shown)} |" for label, shown in table.texts()]
    return "\n".join([*lines, "", *(f"{note}\n" for note in table.all_notes)])


def screen(table: Table) -> rich.table.Table:
    """The values alone, a line for each column: methods are few enough for 80 characters."""
    shown = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    shown.title, shown.title_justify = f"table {table.number}: {table.title}", "left"
    shown.add_column("", overflow="fold")
    for label, _ in table.rows:
        shown.add_column(table.marked(label), justify="right", max_width=12, overflow="fold")
    for n, column in enumerate(table.columns):
        cells = [row[n] for _, row in table.rows]
        values = ["-" if c.value is None else column.template.format(c.value) for c in cells]
        shown.add_row(table.headings[n], *values)
    if table.any_past_bound:
        shown.caption, shown.caption_justify = PAST_BOUND_NOTE, "left"
    return shown


def csv_text(table: Table) -> str:
    """One line a row: its name, whether it is past the limits, and five columns a number.

    Those are value, low, high, n and paper. Names carry no mark: programs look rows up by them.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = ("", " low", " high", " n", " paper")
    titles = [f"{column.title}{part}" for column in table.columns for part in parts]
    writer.writerow(["row", "past limits", *titles])
    for label, cells in table.rows:
        numbers = [x for c in cells for x in (c.value, c.low, c.high, c.n, c.paper)]
        past = "yes" if label in table.past_bound else "no"
        writer.writerow([label, past, *("" if x is None else f"{x:.10g}" for x in numbers)])
    return out.getvalue()


def latex(table: Table) -> str:
    """A table environment that needs no package."""
    heads = list(map(_tex, table.headings))
    lines = [
        r"\begin{table}",
        rf"\caption{{{_tex(table.title)}}}",
        rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
        r"\hline",
        rf" & {' & '.join(heads)} \\",
        r"\hline",
    ]
    lines += [rf"{' & '.join(map(_tex, (label, *shown)))} \\" for label, shown in table.texts()]
    lines += [r"\hline", r"\end{tabular}"]
    notes = [rf"\par {_tex(note)}" for note in table.all_notes]
    return "\n".join([*lines, *notes, r"\end{table}", ""])


def _text(cell: Cell, column: Column, marks: dict[str, str]) -> str:
    """A cell in words: 88.33% (77.8 .. 94.2; n 60), paper 49.74% with a mark if not reached."""
    show = column.template.format
    if cell.value is None:
        text = f"not measured ({marks[cell.note]})" if cell.note else ""
    else:
        about = []
        if cell.low is not None and cell.high is not None:
            about.append(f"{show(cell.low)} .. {show(cell.high)}")
        if cell.n is not None:
            about.append(f"n {cell.n}")
        text = show(cell.value) + (f" ({'; '.join(about)})" if about else "")
    if cell.paper is not None:
        mark = NOT_REACHED if reached(cell, column) is False else ""
        text += f"{', ' if text else ''}paper {show(cell.paper)}{mark}"
    return text


def _tex(text: str) -> str:
    """Text with what TeX would take for commands escaped."""
    return text.translate(ESCAPED).replace(" .. ", "--")
