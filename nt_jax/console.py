"""The screen: lines with their stage at the left edge, and progress bars that disappear.

What is said goes to the console of the command that runs (`shown_on`); a library call says nothing.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import rich.progress as bars
from rich.console import Console, RenderableType
from rich.live import Live

LABEL = 11  # columns of the stage's name
_QUIET = Console(quiet=True)
_CONSOLE: ContextVar[Console] = ContextVar("console")


@contextlib.contextmanager
def shown_on(console: Console) -> Iterator[None]:
    """Show on `console` what is said within."""
    token = _CONSOLE.set(console)
    try:
        yield
    finally:
        _CONSOLE.reset(token)


def say(stage: str, text: str) -> None:
    """One line: the stage at the left, plain words after it."""
    show(f"{stage:<{LABEL - 1}} {text}")


def show(*parts: RenderableType) -> None:
    """Something as it is: a line, a table, an empty line where nothing is given."""
    _CONSOLE.get(_QUIET).print(
        *parts, highlight=False, soft_wrap=all(isinstance(p, str) for p in parts)
    )


@contextlib.contextmanager
def progress(label: str | None, total: int, unit: str) -> Iterator[Callable[..., None]]:
    """`advance(n=1, note="")` of a bar for as long as the block runs; no bar without a label."""
    console = _CONSOLE.get(_QUIET)
    if label is None or not console.is_terminal:
        yield lambda n=1, note="": None
        return
    done = (bars.TextColumn(f"{label:<{LABEL}}"), bars.BarColumn(24), bars.MofNCompleteColumn())
    pace = (bars.TextColumn(f"{unit}  {{task.fields[note]}}"), bars.TimeElapsedColumn())
    rest = (bars.TextColumn("left"), bars.TimeRemainingColumn())
    with bars.Progress(*done, *pace, *rest, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total, note="")
        yield lambda n=1, note="": bar.update(task, advance=n, note=note)


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


def clock(seconds: float) -> str:
    """Minutes and seconds, as 3:07."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
