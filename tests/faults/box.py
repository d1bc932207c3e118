"""One try in a forked process: what it gives, what it costs, and how it ends, whatever it does."""

import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nt_jax.errors import NtError

OK, REFUSED, TRACEBACK, HANG, DIED = "ok", "refused", "traceback", "hang", "died"
PANIC = "PanicException"  # of Rust libraries: no Exception


@dataclass(frozen=True)
class Outcome:
    """How a try ended: `value` is what it gave, or the message, or the traceback."""

    kind: str
    value: Any
    seconds: float  # of CPU
    memory: int  # bytes at the peak, above what the parent held


def attempt(
    work: Callable[[], Any],
    wall: float = 300.0,
    memory: int | None = None,
    cpu: int | None = None,
) -> Outcome:
    """Run `work` in a child that is killed after `wall` seconds, or `cpu` seconds of a core.

    At most `memory` bytes more than now. `wall` is generous: others may use the machine as well.
    """
    before = _statm(1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(work, writing, memory, cpu)
    os.close(writing)
    content, late = _read_all(reading, wall)
    if late:
        os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    cost = used.ru_utime + used.ru_stime, max(0, used.ru_maxrss * 1024 - before)
    if late:
        return Outcome(HANG, f"killed after {wall} s", *cost)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        return Outcome(HANG, f"killed after {cpu} s of a core", *cost)
    if status or not content:
        return Outcome(DIED, f"wait status {status}", *cost)
    return Outcome(*pickle.loads(content), *cost)


def _in_child(work: Callable[[], Any], writing: int, memory: int | None, cpu: int | None) -> None:
    os.setpgid(0, 0)
    if cpu is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 1))
    if memory is not None:
        top = _statm(0) + memory
        resource.setrlimit(resource.RLIMIT_AS, (top, top))
    try:
        found = OK, work()
    except NtError as error:
        found = REFUSED, str(error)
    except BaseException:
        found = TRACEBACK, traceback.format_exc()
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(pickle.dumps(found))
        sys.stdout.flush()
    finally:
        os._exit(0)


def _read_all(descriptor: int, wall: float) -> tuple[bytes, bool]:
    """(what the child wrote, whether it took too long)."""
    parts, end = [], time.monotonic() + wall
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return b"".join(parts), True
            part = pipe.read(1 << 16)
            if not part:
                return b"".join(parts), False
            parts.append(part)


def _statm(field: int) -> int:
    """Bytes of this process: 0 mapped, 1 resident."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[field]) * resource.getpagesize()
