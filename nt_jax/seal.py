"""What a finished stage consists of: its DONE record holds the sha256 of every file.

A stage is read only as it was finished: whatever was torn, exchanged, added or taken away since
has one message, which names the folder of the stage. Large files are known by size and time where
a stage is only passed by, and read in full where it is loaded. Names that begin with a dot are not
ours (.nfs..., .DS_Store) and are not looked at.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nt_jax.atomic import read_text
from nt_jax.errors import RunError

DONE = "DONE"
RESUME = "RESUME"  # in a partial folder: what the stage that may carry it on is made from
LARGE = 64 << 20  # bytes, from which a file is not read for being passed by: 0.1 s of a core
# What parsers of JSON, CSV and npz raise on bytes that nobody wrote so.
_UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, OverflowError,
    NotImplementedError, RecursionError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_KEY = re.compile(r"[0-9a-f]{64}")  # all that DONE and RESUME held before there were digests


@dataclasses.dataclass(frozen=True)
class Seal:
    """What DONE says: the stage's key, what it was made from, and its files.

    `made_from` holds the digests of the stages that it read; `files` a sha256 and a size by
    relative name, None where an older version finished the stage; `empty` are folders with nothing
    in them. `outcome` names the files that later stages rest on, all where it is empty. `later`
    names files that are written again after the stage: what is in them does not count.
    """

    key: str
    made_from: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, tuple[str, int]] | None = None
    empty: tuple[str, ...] = ()
    outcome: tuple[str, ...] = ()
    later: tuple[str, ...] = ()

    @property
    def digest(self) -> str | None:
        """One sha256 of its outcome; None where an older version finished the stage."""
        if self.files is None:
            return None
        names = self.outcome or sorted(self.files)
        text = json.dumps([[name, self.files.get(name)] for name in names])
        return hashlib.sha256(text.encode()).hexdigest()

    def text(self) -> str:
        """The record as DONE holds it: the same bytes for the same files."""
        facts = dataclasses.asdict(self) | {
            "files": self.files and dict(sorted(self.files.items()))
        }
        return json.dumps(facts, indent=1) + "\n"


def seal_of(
    folder: Path,
    key: str,
    made_from: Mapping[str, str],
    outcome: Sequence[str] = (),
    later: Sequence[str] = (),
) -> Seal:
    """The record of a stage that has just been finished in `folder`."""
    files, empty = {}, []
    for name, path in _entries(folder):
        if name.endswith("/"):
            empty.append(name)
        elif name not in later:
            files[name] = (_sha256(path), path.stat().st_size)
    ordered = dict(sorted(files.items()))
    return Seal(key, dict(made_from), ordered, tuple(sorted(empty)), tuple(outcome), tuple(later))


def read_seal(folder: Path, name: str = DONE) -> Seal | None:
    """What the file DONE (or RESUME) in `folder` says; None where there is none.

    Raises a RunError where something else stands in the place of the folder or of the file.
    """
    if not os.path.lexists(folder):
        return None
    if not folder.is_dir():
        kind = "a link that leads nowhere" if folder.is_symlink() else "not a folder"
        raise RunError(f"{folder} is {kind}. Delete it, then repeat this command.")
    try:
        text = read_text(folder / name)
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(folder / name, error) from error
    if text is None:
        return None
    if _KEY.fullmatch(text):
        return Seal(text)
    try:
        facts = json.loads(text)
        files = facts["files"]
        pairs = files and {name: (str(sha), int(size)) for name, (sha, size) in files.items()}
        rest = (tuple(facts["empty"]), tuple(facts["outcome"]), tuple(facts.get("later", ())))
        return Seal(str(facts["key"]), dict(facts["made_from"]), pairs, *rest)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(folder / name, "it is no record of a stage") from error


def check(folder: Path, seal: Seal, *, full: bool = True) -> None:
    """Raises a RunError unless `folder` holds what the stage wrote, and nothing else.

    Without `full`, files from LARGE on are read only where they were changed after DONE was
    written: a copy made with other times is read, too.
    """
    if seal.files is None:
        return
    finished = (folder / DONE).stat().st_mtime_ns
    for name, (sha256, size) in seal.files.items():
        path = folder / name
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise damaged(path, "it is no file")
            if found.st_size != size:
                raise damaged(path, f"{found.st_size:,} bytes in place of {size:,}")
            passed_by = not full and size >= LARGE and found.st_mtime_ns < finished
            if not passed_by and _sha256(path) != sha256:
                raise damaged(path, "its sha256 is not the one in DONE")
        except OSError as error:
            raise damaged(path, error) from error
    known = {*seal.files, *seal.empty, *seal.later}
    for name, path in _entries(folder):
        if name not in known:
            raise damaged(path, "the stage did not write it")


def take(source: Path, seal: Seal, to: Path) -> None:
    """The files of the finished stage in `source`, once they are checked, in `to` as well.

    By hard links where possible: files of a finished stage are never written in place.
    """
    check(source, seal)

    def link(name: str, new: str) -> None:
        try:
            os.link(name, new)
        except OSError:  # another disk, or one that knows no links
            shutil.copyfile(name, new)

    kept = shutil.ignore_patterns(DONE)
    shutil.copytree(source, to, dirs_exist_ok=True, copy_function=link, ignore=kept)


def damaged(path: Path, why: str | Exception) -> RunError:
    """The error about a file of ours that is not what we wrote: it names what to delete.

    That is the folder of its stage where the stage is finished, so that it is done again, and else
    the file alone: a stage under way makes it anew.
    """
    words = _words(why) if isinstance(why, Exception) else why
    if isinstance(why, PermissionError):
        return RunError(f"{path} cannot be read: {words}. Change its permissions, then repeat.")
    stage = next((folder for folder in path.parents if (folder / DONE).exists()), None)
    if stage is None:
        return RunError(f"{path} is damaged ({words}). Delete it, then repeat this command.")
    name = path.relative_to(stage)
    return RunError(
        f"{stage} is not as it was finished: {name} ({words}). Delete the folder {stage}, then "
        "repeat the command that made it: it does this stage again."
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a parser says about the file (or folder) at `path` into the error of `damaged`."""
    try:
        yield
    except _UNREADABLE as error:
        raise damaged(path, error) from error


def _entries(folder: Path, above: str = "") -> Iterator[tuple[str, Path]]:
    """(relative name, path) of every file, link and empty folder, less DONE and RESUME."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = f"{above}{entry.name}"
        if entry.name.startswith(".") or name in (DONE, RESUME):
            continue
        if not entry.is_dir(follow_symlinks=False):
            yield name, Path(entry.path)
            continue
        inside = list(_entries(Path(entry.path), f"{name}/"))
        yield from inside or [(f"{name}/", Path(entry.path))]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _words(error: Exception) -> str:
    """The system's or the parser's words, on one line and not long."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = f"it lacks {text}" if isinstance(error, KeyError) else text
    return " ".join(text.split())[:200]


def resume_of(partial: Path) -> Seal | None:
    """What a partial folder is made from; None where that cannot be told: it begins anew."""
    try:
        return read_seal(partial, RESUME)
    except RunError:
        return None
