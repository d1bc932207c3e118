"""How a command ends: an exit code (nt_jax/exits.py), and a line where anything is wrong."""

import contextlib
import os
import sys
from collections.abc import Callable

from nt_jax import exits, peers
from nt_jax.errors import NtError, panicked
from nt_jax.signals import stopping, words_of


def ended(work: Callable[[], int], command: str) -> int:
    """The exit code of `work`, which is what `command` (a line for a shell) stands for."""
    said = ""
    try:
        with stopping():
            try:
                code = work()
            finally:
                if sys.stdout is not None:  # closed before the command began
                    sys.stdout.flush()  # here, or a reader who left would be noticed after this
    except NtError as error:
        said, code = str(error), error.exit_code
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # for what is left in it; a stand-in has no number
            if sys.stdout is not None:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exits.READER_GONE
    except Exception as error:
        said, code = _unforeseen(error, command)
    except KeyboardInterrupt as error:
        said, code = _interrupted(error, command)
    except BaseException as error:
        if not panicked(error):
            raise
        said, code = _unforeseen(error, command)
    _complain(said)
    peers.leave(said, code)
    return code


def _unforeseen(error: BaseException, command: str) -> tuple[str, int]:
    """(what to say of an error that is none of ours, the exit code)."""
    from nt_jax import bug  # it knows numpy

    known = peers.explained(error) or bug.foreseen(error)
    if known is not None:
        return str(known), known.exit_code
    return bug.report(error, command), exits.BUG


def _interrupted(error: KeyboardInterrupt, command: str) -> tuple[str, int]:
    """(what to say of a signal, the exit code)."""
    if (known := peers.explained(error)) is not None:
        return str(known), known.exit_code
    how, code = words_of(error)
    return f"{how}. What is finished is kept; continue: {command}", code


def _complain(said: str) -> None:
    """Print what is wrong, line by line."""
    with contextlib.suppress(OSError):  # after a hang-up there may be no screen
        for line in said.split("\n") if said else ():
            shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
            print(f"nt_jax: {shown}", file=sys.stderr, flush=True)
