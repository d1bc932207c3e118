"""What tasks of Ray do in the tests: nothing that needs jax."""

import os
import signal
from pathlib import Path

from nt_jax.errors import DataError


def told(number: int) -> tuple[int, int, str, str | None]:
    """(the number, its process, its folder, a variable that the command has)."""
    return number, os.getpid(), os.getcwd(), os.environ.get("NT_JAX_TOLD")


def dies_once(mark: Path) -> str:
    """Killed at the first try; the next one finds what that has left."""
    if not mark.exists():
        mark.write_text("left")
        os.kill(os.getpid(), signal.SIGKILL)
    return mark.read_text()


def fails(said: str) -> None:
    """Ends with an error of ours."""
    raise DataError(said)


def has_a_bug() -> None:
    """Ends with one that is none of ours."""
    raise KeyError("bug")
