"""One table in three formats, against files that were read and found right."""

import csv
import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from nt_jax.compare.render import (
    PAST_BOUND_NOTE,
    Cell,
    Column,
    Table,
    csv_text,
    latex,
    markdown,
    reached,
    screen,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "compare"
REFUSES, OVER = (
    Column("refuses A_1 & co", "{:.2f}%", "higher"),
    Column("refuses B", "{:.0f}%", "lower"),
)
PLAIN = Column("perplexity", "{:.2f}")
REASON = "letters are read without a chat"
TABLE = Table(
    "2",
    "safety & utility, 100%",
    [REFUSES, OVER, PLAIN],
    [
        ("Default", [Cell(21.5, 12.25, 35.0, 60, 10.77), Cell(2, 0, 9, 60, 1), Cell(9.5)]),
        ("DINM", [Cell(42.674, 30, 50, 60, 42.67), Cell(4, paper=4), Cell(note=REASON)]),
        ("SCANS", [Cell(90.0, 80, 99, 60, 99.28), Cell(paper=0), Cell(note=REASON)]),
    ],
    ["A note with $, {braces}, ~ and ^."],
)


@pytest.mark.parametrize(("writer", "name"), [(markdown, "md"), (csv_text, "csv"), (latex, "tex")])
def test_each_format_is_that_of_the_golden_file(writer, name):
    assert writer(TABLE) == (GOLDEN / f"table2.{name}").read_text(encoding="utf-8")


def test_eight_methods_and_eleven_measures_are_whole_on_80_columns():
    names = ["Default", "NeuronTune", "DINM", "SCANS", "CAVGAN", "A system prompt", "LoRA", "IA3"]
    titles = [f"refuses a_test_set_of_a_long_name_{n}" for n in range(11)]
    cells = [Cell(10 + n + 0.25) for n in range(11)]
    table = Table("2", "wide", [Column(title) for title in titles], [(k, cells) for k in names])
    out = io.StringIO()
    Console(file=out, width=80).print(screen(table))
    assert [out.getvalue().count(f"{10 + n}.25%") for n in range(11)] == [8] * 11


def test_rows_and_columns_past_the_bound_are_marked_and_explained_once():
    table = dataclasses.replace(TABLE, past_bound=["DINM", "perplexity", "LoRA"])
    shown = markdown(table)
    assert "| DINM ‡ |" in shown and "| perplexity ‡ |" in shown and "SCANS ‡" not in shown
    assert shown.count(PAST_BOUND_NOTE) == 1
    assert r"DINM $^\ddagger$ &" in latex(table)
    rows = list(csv.DictReader(io.StringIO(csv_text(table))))
    assert [(row["row"], row["past limits"]) for row in rows] == [
        ("Default", "no"), ("DINM", "yes"), ("SCANS", "no")
    ]  # fmt: skip
    assert "perplexity" in rows[0]  # read by programs, which look all up by name
    out = io.StringIO()
    Console(file=out, width=200).print(screen(table))
    words = " ".join(out.getvalue().split())
    assert "DINM ‡" in words and PAST_BOUND_NOTE in words


def test_a_mark_of_another_table_needs_no_note():
    table = dataclasses.replace(TABLE, past_bound=["LoRA"])
    assert markdown(table) == markdown(TABLE) and screen(table).caption is None


def test_csv_holds_every_number_unrounded():
    rows = list(csv.DictReader(io.StringIO(csv_text(TABLE))))
    assert [row["row"] for row in rows] == ["Default", "DINM", "SCANS"]
    names = [f"{REFUSES.title}{part}" for part in ("", " low", " high", " n", " paper")]
    assert [float(rows[1][name]) for name in names] == [42.674, 30, 50, 60, 42.67]
    assert rows[2]["refuses B"] == rows[2]["perplexity"] == "" and rows[2]["refuses B paper"] == "0"


@pytest.mark.parametrize(
    ("value", "paper", "column", "expected"),
    [
        (42.674, 42.67, REFUSES, True),  # equal as printed
        (42.66, 42.67, REFUSES, False),
        (3, 4, OVER, True),
        (5, 4, OVER, False),
        (5, 4, PLAIN, None),  # neither way is better
        (None, 4, OVER, None),
        (5, None, OVER, None),
    ],
)
def test_a_figure_is_reached_if_ours_is_as_good_as_printed(value, paper, column, expected):
    assert reached(Cell(value, paper=paper), column) is expected


def test_a_reason_is_said_once_and_unreached_figures_stay():
    text = markdown(TABLE)
    assert text.count(REASON) == 1 and text.count("not measured (a)") == 2
    assert "paper 99.28%†" in text and "paper 10.77% " in text and "† the paper's" in text
