"""Files that are either old or new, never half-written, and disks that fill up."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from nt_jax.errors import RunError
from nt_jax.limits import check_regular

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
PERMISSIONS = (errno.EACCES, errno.EPERM)  # which can be changed
NOT_ALLOWED = (*PERMISSIONS, errno.EROFS, errno.ENOTDIR)
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # what write_atomic calls a file until it is whole


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file as a whole: readers, and a crash, see the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path.parent):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


@contextlib.contextmanager
def disk_errors(folder: Path, by: str = "run_dir=DIR") -> Iterator[None]:
    """Turn a full disk, or a folder that we may not write to, into a RunError that says where.

    `by`: what names another folder.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        code, file = getattr(error, "errno", None), getattr(error, "filename", None)
        # Array writers (Orbax, safetensors) raise their own errors around the system's words.
        if code in DISK_FULL or "No space left on device" in str(error):
            raise RunError(
                f"no space left on the disk of {folder} ({_free(folder)}). Free some, then repeat "
                "this command: finished stages are kept."
            ) from error
        if code in NOT_ALLOWED and isinstance(file, str) and _related(folder, Path(file)):
            what = "Change its permissions, or choose" if code in PERMISSIONS else "Choose"
            at = "" if Path(file).name.startswith(".") else f": {file}"  # a temporary one
            raise RunError(
                f"cannot write to {folder}: {os.strerror(code)}{at}. {what} another folder with "
                f"{by}."
            ) from error
        raise


def sync_tree(folder: Path) -> None:
    """Bring every file and folder below `folder` to disk, folders after what they hold."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(parent, name)
            if not path.is_symlink():
                sync(path)
        sync(Path(parent))


def sync(path: Path) -> None:
    """Bring one file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise  # some network filesystems cannot sync a folder; its files are what counts
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a folder with all that it holds, or what stands in its place; there may be none."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def read_text(path: Path) -> str | None:
    """The text of a small file of ours, or None where there is none."""
    try:
        check_regular(path)
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _related(folder: Path, file: Path) -> bool:
    folder, file = folder.absolute(), file.absolute()  # of a lock the system says the whole path
    return file == folder or folder in file.parents or file in folder.parents


def _free(folder: Path) -> str:
    """How much is free where `folder` lies, or will lie."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return f"{shutil.disk_usage(existing).free / 1e9:.2f} GB free"


def sweep(folder: Path) -> None:
    """Delete the files directly in `folder` that a killed write_atomic had no time to rename."""
    for file in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(file.name) and file.is_file():
            file.unlink()
