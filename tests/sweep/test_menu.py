"""The menu at the end: what it calls, and that a mistake ends nothing."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from nt_jax.chat import screen
from nt_jax.console import shown_on
from nt_jax.sweep import menu as room
from nt_jax.sweep.points import numbered
from nt_jax.sweep.sweep import Dial
from tests.sweep.test_points import point


@pytest.fixture
def dial():
    found = numbered([point(0.5, 0.5, 0.0, 0.7, kept=True), point(0.4, 0.4, 0.1, 0.5)])
    cells = {"c": SimpleNamespace(folder=Path("cells/c"))}
    picks = {"balanced": found[1]}
    return Dial(Path("sweep"), None, cells, found, point(0.0, 0.0, 0.0, 0.0, cell=""), picks)


def said(dial, monkeypatch, *lines: str) -> str:
    typed = iter(lines)

    def read(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    out = io.StringIO()
    with shown_on(Console(file=out, width=120)):
        room.menu(dial)
    return out.getvalue()


def test_it_looks_chats_exports_and_asks_the_tests(dial, monkeypatch):
    calls = []
    monkeypatch.setattr(room, "export_run", lambda *words, **more: calls.append((words, more)))
    monkeypatch.setattr(screen, "chat", lambda *words: calls.append(words))
    monkeypatch.setattr(Dial, "measure", lambda self, point: calls.append(point.number))
    text = said(dial, monkeypatch, "look 1", "chat 1", "chat balanced", "export 2 out/x", "test 2")
    assert "50 % refused, 35..65 of 40" in text and "neurons.safety=9, strength 0.7" in text
    chats, (exported, wanted), tested = calls[:2], calls[2], calls[3]
    # What a cell has kept is asked for by no strength: it is the cell's own.
    assert chats == [(Path("cells/c"), None), (Path("cells/c"), 0.5)]
    assert exported == (Path("cells/c"), Path("out/x")) and wanted["wanted"].strength == 0.5
    assert tested == 2


@pytest.mark.parametrize(
    "line", ["look 9", "look", "dance 1", "look 'x", "chat safest", "export 1", "", "look 0"]
)
def test_a_mistake_ends_nothing(dial, monkeypatch, line):
    text = said(dial, monkeypatch, line, "look 2", "quit", "look 1")
    assert text.count("refused, ") == 6  # of the one that was looked at


def test_the_end_of_the_input_ends_it(dial, monkeypatch):
    assert "quit" in said(dial, monkeypatch)
