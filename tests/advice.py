"""What a message advises, carried out: the refused call, then its advice, then the same call."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nt_jax.atomic import remove
from nt_jax.errors import NtError
from nt_jax.rundir import RunDirectory, Stage

KEY = "a" * 64
NOBODY = 65534
Refused = tuple[Callable[[], object], str]
_DELETE = (r"Delete the folder (.+?), then repeat", r"^(.+?) is (?:damaged|a folder|a link|not a)")


def followed(steps: Iterator[Refused | Callable[[], object]]) -> object:
    """What comes of a call once its advice is followed.

    `steps` yields the call and words of the message that refuses it, and does what these advise
    when it goes on. It yields another call only where the advice is to call with something else.
    """
    first = next(steps)
    assert isinstance(first, tuple)
    call, words = first
    with pytest.raises(NtError, match=words):
        call()
    again = next(steps, call)
    assert not isinstance(again, tuple)
    found = again()
    assert next(steps, None) is None
    return found


def deleted(message: object) -> Path:
    """Delete what a message says to delete, and nothing else."""
    text = str(message)
    assert re.search(r"Delete (it|the folder)\b", text), text
    found = next(filter(None, (re.search(pattern, text) for pattern in _DELETE)))
    path = Path(found[1])
    remove(path)
    return path


def carried(run: Path, make: Callable[[Path], object]) -> Path:
    """The folder of a stage whose files `make(folder)` writes; kept where it is finished."""

    def work(folder: Path) -> str:
        make(folder)
        return "made"

    with RunDirectory(run) as directory:
        directory.record(keys={"made": KEY})
        directory.carry(Stage("made", (), (), work), KEY)
    return run / "made"


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder of a user whom permissions bind, which the process is meanwhile: root is not."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    root = os.geteuid() == 0
    try:
        if root:
            os.chown(folder, NOBODY, NOBODY)
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
        yield folder
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)
        shutil.rmtree(folder)
