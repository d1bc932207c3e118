"""The processes of one run end together (docs/scaling.md).

Where one is killed, XLA aborts the others within HEARTBEAT seconds, with words of its own and an
exit code that says nothing. So each process is two: a parent that only waits, and its child, which
works. Whatever becomes of the child, the parent has the last line, and an exit code that is
documented. A process that ends by itself tells the others why (`leave`), and they end likewise.
"""

import _thread
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from nt_jax import exits, processes
from nt_jax.errors import NtError

HEARTBEAT = 20  # seconds without a sign of life after which a process counts as dead
START = 120  # seconds until all processes must have come
GRACE = 10.0  # seconds that a process has to close what it holds, once another one has ended
LOOK = 0.5  # seconds between two looks at whether one has
LATER = 3.0  # seconds that process 0 stays longer: others have GRACE from when they look
END, ENDED = "nt_jax/end", "nt_jax/ended"  # how the first one has ended; those that have
NOT_MET = (
    f"the processes of the run did not all come within {START} s. Check that --coordinator is an "
    "address of process 0 that all reach and nothing else uses, and that all have begun."
)
# Words of the errors that a process meets where another one is gone.
GONE = re.compile(
    r"gloo|nccl|connection (?:reset|closed|refused)|coordination|heartbeat|unavailable", re.I
)


class LostError(NtError):
    """Another process of the run is gone."""

    exit_code = exits.LOST


def parent() -> int | None:
    """Become two processes: the exit code in the parent, once the child is gone; None in the child.

    To be called before anything has started a thread.
    """
    lives, held = os.pipe()
    hears, _PARENT["says"] = os.pipe()
    child = os.fork()
    if child:
        os.close(lives)
        os.close(_PARENT["says"])
        return _waited(child, hears)
    os.close(held)
    os.setpgid(0, 0)  # signals come by the parent: once, also those of a terminal
    threading.Thread(target=_end_with_parent, args=(lives,), daemon=True).start()
    return None


_PARENT: dict[str, int] = {}  # the end of a pipe: it hears once all processes have met


def _waited(child: int, hears: int) -> int:
    def pass_on(number: int, frame: object) -> None:
        _kill(child, number)
        slow = threading.Timer(3 * GRACE, _kill, (child, signal.SIGKILL))  # within a library
        slow.daemon = True
        slow.start()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, pass_on)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in exits.EXITS:
        return code
    if not os.read(hears, 1):
        print(f"nt_jax: {NOT_MET}", file=sys.stderr, flush=True)
        return exits.MISTAKE
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    print(f"nt_jax: {_lost(f'this process was ended ({how})')}", file=sys.stderr, flush=True)
    return exits.LOST


def _kill(child: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _end_with_parent(lives: int) -> None:
    os.read(lives, 1)  # until nobody holds the other end
    os._exit(exits.LOST)


def _lost(what: str) -> str:
    return (
        f"{what}, by another process of the run that is gone, or from outside. What is finished is "
        "kept: repeat the command, with as many processes as you like."
    )


def met() -> None:
    """All processes are there: the parent may know, and how another one ends is looked out for."""
    os.write(_PARENT["says"], b"!")
    if processes.several():
        _WATCH.start()


_TOLD: dict[str, Any] = {}  # how another process has ended
_OVER = threading.Event()  # nobody need look any more


def _watch() -> None:
    """End this process once another one has ended: by a signal to its main thread, or at once."""
    while not (_OVER.wait(LOOK) or _told()):
        pass
    if not _OVER.is_set() and _TOLD["index"] != processes.index():
        # As signals.py has it, and nothing where that is over; `explained` says the reason.
        _thread.interrupt_main(signal.SIGTERM)
        time.sleep(GRACE)
        _say_ended()
        _out(*_words_of_other())


_WATCH = threading.Thread(target=_watch, daemon=True)


def _told() -> bool:
    """Whether some process has ended; how, is in _TOLD then."""
    if not _TOLD:
        with contextlib.suppress(RuntimeError):  # not yet
            _TOLD.update(json.loads(processes.client().key_value_try_get(END)))
    return bool(_TOLD)


def _words_of_other() -> tuple[str, int]:
    return f"process {_TOLD['index']} has ended: {_TOLD['said']}", _TOLD["code"]


def explained(error: BaseException) -> NtError | None:
    """The error of one process in words, where another one is the reason; None where it is not."""
    if not processes.several():
        return None
    gone = isinstance(error, Exception) and GONE.search(str(error))
    until = time.monotonic() + (GRACE / 2 if gone else 0)
    while not (there := _told()) and time.monotonic() < until:
        time.sleep(LOOK / 5)
    if there:
        said, code = _words_of_other()
        told = NtError(said)
        told.exit_code = code
        return told
    if gone:
        return LostError(_lost("the others were lost"))
    return None


def leave(said: str, code: int) -> None:
    """Tell the others how this process ends; for a process alone nothing is done.

    Process 0 hosts the coordinator, so it is the last to go.
    """
    if not processes.several():
        return
    if code == exits.DONE:
        import jax

        # Process 0 may have work left that is its own, and shutdown waits for two minutes at most.
        with contextlib.suppress(RuntimeError):
            processes.meet()
        _OVER.set()
        _WATCH.join()  # Python must not end while it asks the coordinator
        with contextlib.suppress(RuntimeError):
            jax.distributed.shutdown()
        return
    told = {"index": processes.index(), "code": code, "said": said}
    client = processes.client()
    with contextlib.suppress(RuntimeError):
        client.key_value_set(END, json.dumps(told))  # fails where another one was before
    _say_ended()
    until = time.monotonic() + GRACE + LATER
    while processes.first() and time.monotonic() < until:
        with contextlib.suppress(RuntimeError):
            if len(client.key_value_dir_get(ENDED)) == processes.count():
                break
        time.sleep(LOOK / 5)
    _out("", code)


def _say_ended() -> None:
    with contextlib.suppress(RuntimeError):
        processes.client().key_value_set(f"{ENDED}/{processes.index()}", "")


def _out(said: str, code: int) -> NoReturn:
    """End at once: jax would wait for the others at the end of Python."""
    with contextlib.suppress(OSError):
        if said:
            print(f"nt_jax: {said}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
