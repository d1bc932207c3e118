"""How far the work at hand has come, how fast it goes, and how long the rest of a run may take."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

SURE = 5.0  # expected seconds of finished stages from which on they say how fast this machine is
KEPT = 1 / 3  # of what was expected: whatever took less was kept somewhere, and says nothing
OFF = 20.0  # as many times faster or slower than expected; more is an accident


def clock(seconds: float) -> str:
    """Minutes and seconds, as 3:07; from an hour on hours and minutes, as 61 h 04 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


@dataclass
class Task:
    """Something that is counted, e.g. 24 epochs."""

    label: str
    total: int
    unit: str
    first: int  # done before it began
    done: int
    started: float = field(default_factory=lambda: time.monotonic())
    note: str = ""

    def advance(self, n: int = 1, note: str = "") -> None:
        """So many more are done."""
        self.done += n
        self.note = note

    def left(self) -> float | None:
        """Seconds at the pace so far; None before anything is done."""
        done = self.done - self.first
        if done <= 0:
            return None
        return (time.monotonic() - self.started) / done * max(0, self.total - self.done)

    def __str__(self) -> str:
        """What, how far, how fast, how long still."""
        spent, left = time.monotonic() - self.started, self.left()
        parts = [f"{self.done:,} of {self.total:,} {self.unit}"]
        if left is None:
            return f"{parts[0]}   {clock(spent)} so far"
        rate, per = (self.done - self.first) / spent, "s"
        if rate < 1:
            rate, per = 60 * rate, "min"
        parts += [self.note] if self.note else []
        return "   ".join([*parts, f"{rate:.1f}/{per}", f"{clock(left)} left"])


class Pace:
    """The tasks under way, innermost last, and the stages of a run against what was expected."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.last = 0.0  # seconds of the last stage
        self._expected: dict[str, float] = {}
        self._stage: tuple[str, float] | None = None  # its name and when it began
        self._told = self._took = 0.0  # seconds expected and spent of finished stages

    def expect(self, seconds: Mapping[str, float]) -> None:
        """What is still to come, by stage."""
        self._expected = dict(seconds)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage at work."""
        outer, started = self._stage, time.monotonic()
        self._stage = (name, started)
        try:
            yield
        finally:
            self._stage, self.last = outer, time.monotonic() - started
            told = self._expected.pop(name, None)
            if told is not None and self.last > KEPT * told:
                self._told, self._took = self._told + told, self._took + self.last

    @contextlib.contextmanager
    def task(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        """Something counted at work."""
        task = Task(label, total, unit, done, done)
        self.tasks.append(task)
        try:
            yield task
        finally:
            self.tasks.remove(task)

    def left(self) -> float | None:
        """Seconds that the run may still take, as its stages so far went; None if unknown."""
        expected, stage, tasks = dict(self._expected), self._stage, [*self.tasks]
        if not expected:
            return None
        sure = self._told >= SURE and self._took > 0
        pace = min(OFF, max(1 / OFF, self._took / self._told)) if sure else 1.0
        rest = {name: pace * seconds for name, seconds in expected.items()}
        inner = max((task.left() or 0.0 for task in tasks), default=0.0)
        mine = 0.0
        if stage is not None:
            name, started = stage
            mine = max(inner, rest.pop(name, 0.0) - (time.monotonic() - started))
        return mine + sum(rest.values())

    def line(self) -> tuple[str, str] | None:
        """(label, text) about what is under way; None where nothing is."""
        left, tasks, stage = self.left(), [*self.tasks], self._stage  # the work goes on meanwhile
        whole = f"   run: about {clock(left)} left" if left else ""
        if tasks:
            return tasks[-1].label, f"{tasks[-1]}{whole}"
        if stage is None:
            return None
        name, started = stage
        return name, f"at work, {clock(time.monotonic() - started)} so far{whole}"


@contextlib.contextmanager
def pulse(seconds: float, tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` every so many seconds, in a thread, for as long as the block runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(seconds):
            tell()

    thread = threading.Thread(target=beat, daemon=True, name="pulse")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
