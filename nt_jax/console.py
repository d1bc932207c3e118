"""The screen: lines with their stage at the left edge, and how far whatever takes long has come.

What is said goes to the console of the command that runs (`shown_on`); a library call says nothing.
At a terminal there is a bar that disappears, elsewhere a line every PULSE seconds (pace.py).
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar

import rich.progress as bars
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Column
from rich.text import Text

from nt_jax.pace import Pace, clock, pulse

LABEL = 11  # columns of the stage's name
PULSE = 30.0  # seconds between two lines where there is no terminal
LONG = 20.0  # seconds of a stage after which the rest of the run is told anew
_QUIET = Console(quiet=True)
_CONSOLE: ContextVar[Console] = ContextVar("console")
_PACE: ContextVar[Pace] = ContextVar("pace")

__all__ = ["clock", "expect", "live", "progress", "say", "show", "shown_on", "working"]


class Screen(Console):
    """The screen of a command; a reader who has left ends it as the command's own prints do."""

    def on_broken_pipe(self) -> None:
        """Within the handling of a BrokenPipeError, which rich would turn into exit code 1."""
        raise BrokenPipeError


@contextlib.contextmanager
def shown_on(console: Console) -> Iterator[None]:
    """Show on `console` what is said within."""
    pace = Pace()
    tokens = _CONSOLE.set(console), _PACE.set(pace)
    speaks = not console.is_terminal and not console.quiet

    def tell() -> None:
        if line := pace.line():
            label, text = line
            label += ":" * (len(label) >= LABEL)
            told = f"{label:<{LABEL - 1}} {text}"
            console.print(told, highlight=False, markup=False, soft_wrap=True)

    try:
        with pulse(PULSE, tell) if speaks else contextlib.nullcontext():
            yield
    finally:
        _CONSOLE.reset(tokens[0])
        _PACE.reset(tokens[1])


def say(stage: str, text: str) -> None:
    """One line: the stage at the left, plain words after it."""
    show(f"{stage:<{LABEL - 1}} {text}")


def show(*parts: RenderableType) -> None:
    """Something as it is: a line, a table, an empty line where nothing is given."""
    _CONSOLE.get(_QUIET).print(
        *parts, highlight=False, markup=False, soft_wrap=all(isinstance(p, str) for p in parts)
    )


def expect(seconds: Mapping[str, float]) -> None:
    """How long the stages that are still to come may take, by name, in their order."""
    if pace := _PACE.get(None):
        pace.expect(seconds)


@contextlib.contextmanager
def working(stage: str) -> Iterator[None]:
    """A stage at work: its name without a terminal, its time held against what was expected."""
    pace = _PACE.get(None)
    if pace is None:
        yield
        return
    with pace.stage(stage):
        yield
    left = pace.left()
    if left and pace.last > LONG:
        say("time", f"about {clock(left)} left in all")


@contextlib.contextmanager
def progress(
    label: str | None, total: int, unit: str, done: int = 0
) -> Iterator[Callable[..., None]]:
    """`advance(n=1, note="")` for as long as the block runs; nothing is told without a label.

    `done`: how many were there before.
    """
    console, pace = _CONSOLE.get(_QUIET), _PACE.get(None)
    if label is None or pace is None:
        yield lambda n=1, note="": None
        return
    with pace.task(label, total, unit, done) as task:
        if not console.is_terminal:
            yield task.advance
            return
        with _bar(console, unit) as bar:
            name = f"{label:<{LABEL}}"
            shown = bar.add_task(name, total=total, completed=done, note="", whole="")

            def advance(n: int = 1, note: str = "") -> None:
                task.advance(n, note)
                left = pace.left()
                whole = f"(run: {clock(left)})" if left else ""
                bar.update(shown, advance=n, note=note, whole=whole)

            yield advance


def _bar(console: Console, unit: str) -> bars.Progress:
    done = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(24),
        bars.MofNCompleteColumn(table_column=Column(no_wrap=True)),
        bars.TextColumn(unit, markup=False),
        _Note("{task.fields[note]}", markup=False, table_column=Column()),
    )
    rest = (
        bars.TimeElapsedColumn(table_column=Column(no_wrap=True)),
        bars.TimeRemainingColumn(table_column=Column(no_wrap=True)),
        bars.TextColumn("left"),
        bars.TextColumn("{task.fields[whole]}"),
    )
    return bars.Progress(*done, *rest, console=console, transient=True)


class _Note(bars.TextColumn):
    """Where a line has no room, this is cut, and the bar: no number is."""

    def render(self, task: bars.Task) -> Text:
        """Its one line."""
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


@contextlib.contextmanager
def live() -> Iterator[Callable[[RenderableType], None]]:
    """`update(something)`, which takes the place of what it showed before.

    Without a terminal only the last one is shown.
    """
    console, last = _CONSOLE.get(_QUIET), []
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="visible") as screen:
            yield lambda shown: screen.update(shown, refresh=True)
        return
    yield lambda shown: last.append(shown)
    show(*last[-1:])
