"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is finished is kept, and a line says so."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

CAUGHT = (signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else (signal.SIGTERM,)
AGAIN = 0.05  # seconds until a stop that was lost comes once more
SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}  # else: hung up


class Stopped(KeyboardInterrupt):
    """Raised in the main thread by a signal; nothing that handles errors takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` within the block where SIGTERM or SIGHUP arrives, once.

    A signal that is ignored (nohup) stays ignored. One that arrives while Python cleans up, as
    jax does at every garbage collection, is ignored there and comes again. Python has signals in
    its main thread only: elsewhere the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in CAUGHT}
    taken = [number for number, handler in before.items() if handler == signal.SIG_DFL]

    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for other in taken:  # a second one must not cut off what the first one closes
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    hook = sys.unraisablehook

    def not_lost(lost: "sys.UnraisableHookArgs") -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            hook(lost)
            return
        number = lost.exc_value.number if isinstance(lost.exc_value, Stopped) else signal.SIGINT
        came.clear()
        for other in taken:
            signal.signal(other, stop)
        timer = threading.Timer(AGAIN, signal.raise_signal, [number])
        timer.daemon = True
        timer.start()

    try:
        sys.unraisablehook = not_lost
        for number in taken:
            signal.signal(number, stop)
        yield
    except Exception as error:
        if came:  # a screen that is gone fails while the block is left
            raise Stopped(came[0]) from error
        raise
    finally:
        sys.unraisablehook = hook
        for number in taken:
            signal.signal(number, before[number])


def words_of(error: KeyboardInterrupt) -> tuple[str, int]:
    """(how a command ended, its exit code, 128 + the signal's number)."""
    number = error.number if isinstance(error, Stopped) else signal.SIGINT
    return SAID.get(signal.Signals(number), "hung up"), 128 + number
