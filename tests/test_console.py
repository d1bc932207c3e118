"""What is said reaches the console of the command that runs, and no other."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from nt_jax.console import clock, progress, say, show, shown_on


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


def test_a_terminal_shows_how_far_it_has_come_and_a_bar_without_a_label_is_none():
    console = screen(force_terminal=True)
    with shown_on(console):
        with progress(None, 3, "epochs") as advance:
            advance(1, "a note")
        assert shown(console) == ""
        with progress("tune", 3, "epochs") as advance:
            advance(2, "a note")
    assert "2/3" in shown(console) and "a note" in shown(console)


def test_a_clock_shows_minutes_and_the_nearest_second():
    shown_as = {0: "0:00", 59.4: "0:59", 59.9: "1:00", 187: "3:07", 3600: "60:00"}
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
