"""The end of a command by an error that nobody foresaw: one line, and a file with the traceback."""

import datetime
import errno
import os
import platform
import tempfile
import traceback
from pathlib import Path

from nt_jax import cache, rundir
from nt_jax.atomic import DISK_FULL
from nt_jax.errors import NtError
from nt_jax.version import __version__

OF_A_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
OF_A_PATH += (errno.EISDIR, errno.ENOTDIR, *DISK_FULL)
NO_MEMORY = "RESOURCE_EXHAUSTED"  # what XLA says where a device has no memory left


def foreseen(error: BaseException) -> NtError | None:
    """The error in our words where it is not our fault; None where it is."""
    if isinstance(error, MemoryError) or NO_MEMORY in str(error):
        return NtError(
            "out of memory. --dry-run says what each part of a run takes: lower eval.batch_size, "
            "set tune.sequence_tokens=512, or use a larger machine, then repeat: what is finished "
            "is kept."
        )
    if isinstance(error, OSError) and error.errno in OF_A_PATH:
        where = f" ({str(error.filename)[:80]})" if error.filename else ""
        return NtError(f"{error.strerror}{where}. Name another path, or change that one.")
    if isinstance(error, FileNotFoundError) and error.filename is None:
        return NtError("the working directory is gone. Go to another one, then repeat.")
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib's expanduser
        return NtError("a path begins with ~ and a name that nobody has here. Write it out.")
    if isinstance(error, ValueError) and "null byte" in str(error):
        return NtError("a path holds a NUL character. Leave it out.")
    return None


def report(error: BaseException, command: str) -> str:
    """The line about a bug; its traceback goes into a file of the run directory.

    Before a run directory is held it goes into the cache folder, and where no file can be written
    into the line's successors.
    """
    said = " ".join(str(error).split())[:120]
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    trace = "".join(traceback.format_exception(error))
    now = datetime.datetime.now(datetime.UTC)
    text = (
        f"nt_jax {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{now.isoformat(timespec='seconds')}\n{command}\n\n{trace}"
    )
    name = f"bug-{now:%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        except (OSError, ValueError):
            continue
        return f"this is a bug, please report it with {folder / name}: {what}"
    return f"this is a bug, please report it: {what}\n{trace}"


def _folders() -> list[Path]:
    """Where the traceback may go, the best place first."""
    held, kept = rundir.last_held(), cache.folder()
    places = [held] if held is not None and held.is_dir() else []
    return [*places, *([kept] if kept else []), Path(tempfile.gettempdir())]
