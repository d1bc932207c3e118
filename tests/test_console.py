"""What is said reaches the console of the command that runs, and no other."""

import io
import re
import time

import pytest
from rich.console import Console
from rich.table import Table

from nt_jax import console as module
from nt_jax.console import clock, expect, live, progress, say, show, shown_on, working


def screen(**settings) -> Console:
    return Console(file=io.StringIO(), width=60, **settings)


def shown(console: Console) -> str:
    return console.file.getvalue()


def test_a_library_call_says_nothing(capsys):
    say("train", "an epoch")
    show("a table")
    with progress("train", 2, "epochs") as advance:
        advance()
    assert capsys.readouterr() == ("", "")


def test_what_is_said_stands_behind_its_stage_however_long_it_is():
    console = screen()
    with shown_on(console):
        say("train", "long words " * 9)
        show()
    assert shown(console) == f"train      {'long words ' * 9}\n\n"


def test_inside_another_console_only_that_one_is_written_to():
    outer, inner = screen(), screen()
    with shown_on(outer):
        with pytest.raises(KeyError), shown_on(inner):
            say("a", "inside")
            raise KeyError
        say("b", "outside")
    say("c", "after")
    assert (shown(outer), shown(inner)) == ("b          outside\n", "a          inside\n")


def test_without_a_terminal_progress_is_silent_and_can_be_advanced():
    console = screen(force_terminal=False)
    with shown_on(console), progress("tune", 3, "epochs") as advance:
        advance()
        advance(2, "a note")
    assert shown(console) == ""


def told_by(console: Console, monkeypatch, at_work) -> str:
    """What is told while `at_work(wait)` runs; wait() lasts until another line was told."""
    monkeypatch.setattr(module, "PULSE", 0.02)
    with shown_on(console):

        def wait() -> None:
            before, until = shown(console), time.monotonic() + 20
            while shown(console) == before and time.monotonic() < until:
                time.sleep(0.005)

        at_work(wait)
    return shown(console)


def test_without_a_terminal_a_line_is_told_every_now_and_then(monkeypatch):
    def at_work(wait) -> None:
        with working("train"):
            wait()
            with progress("tune", 4, "epochs") as advance:
                advance(1, "safety 2.3")
                wait()
                wait()

    lines = told_by(screen(force_terminal=False), monkeypatch, at_work).splitlines()
    assert lines[0].startswith("train      at work, 0:0")
    assert lines[-1].startswith("tune       1 of 4 epochs   safety 2.3   ")
    assert lines[-1].endswith(" left") and "/s   " in lines[-1]


def test_a_run_with_expected_times_tells_its_rest(monkeypatch):
    def at_work(wait) -> None:
        expect({"train": 100, "eval": 500})
        with working("train"):
            wait()

    line = told_by(screen(force_terminal=False), monkeypatch, at_work).splitlines()[0]
    assert line.startswith("train      at work") and line.endswith("   run: about 10:00 left")


def test_a_terminal_and_a_quiet_console_are_told_nothing_in_between(monkeypatch):
    def at_work(wait) -> None:
        with working("train"):
            time.sleep(0.2)

    assert told_by(screen(force_terminal=True), monkeypatch, at_work) == ""
    assert told_by(screen(quiet=True), monkeypatch, at_work) == ""


def test_what_changes_in_place_is_shown_once_without_a_terminal():
    plain, terminal = screen(force_terminal=False), screen(force_terminal=True)
    for console in (plain, terminal):
        with shown_on(console), live() as update:
            update("so far")
            update("the whole")
    assert shown(plain) == "the whole\n"
    assert "so far" in shown(terminal) and "the whole" in shown(terminal)
    with live() as update:
        update("nobody looks")


def test_a_terminal_shows_how_far_it_has_come_and_a_bar_without_a_label_is_none():
    console = screen(force_terminal=True)
    with shown_on(console):
        with progress(None, 3, "epochs") as advance:
            advance(1, "a note")
        assert shown(console) == ""
        with progress("tune", 3, "epochs") as advance:
            advance(2, "a note")
    assert "2/3" in shown(console) and "a note" in shown(console)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_where_a_line_has_no_room_its_note_is_cut_and_no_number(width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    with shown_on(console):
        expect({"train": 7200.0})
        with working("train"), progress("tune", 1200, "epochs") as advance:
            advance(345, "safety 0.76 utility 0.75 attacked 0.68 direct 0.94 template 0.64")
    line = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).split("\r")[-2]
    assert re.search(r" 345/1200 epochs .*… 0:00:0\d .* left \(run: [12] h \d\d min\)", line), line


def test_a_clock_shows_minutes_and_the_nearest_second_and_long_times_by_the_hour():
    shown_as = {0: "0:00", 59.4: "0:59", 59.9: "1:00", 187: "3:07", 3599.4: "59:59"}
    shown_as |= {3599.6: "1 h 00 min", 5430.1: "1 h 31 min", 219835: "61 h 04 min"}
    assert {seconds: clock(seconds) for seconds in shown_as} == shown_as


@pytest.mark.parametrize("text", ["x[/y]", "[bold]x", "[/]", "\\[x]", "😀"])
def test_what_looks_like_markup_is_text(text):
    console, table = screen(), Table("head")
    table.add_row(text)
    with shown_on(console):
        say("model", text)
        show(table)
    assert shown(console).startswith(f"model      {text}\n") and shown(console).count(text) == 2
    terminal = screen(force_terminal=True)
    with shown_on(terminal), progress(text, 2, text) as advance:
        advance(1, text)
    assert text in shown(terminal)
