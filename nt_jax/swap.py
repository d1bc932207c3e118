"""How the folder of a stage takes its place in a run directory, whatever kills the process then."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from nt_jax.atomic import remove, sweep, sync
from nt_jax.errors import RunError
from nt_jax.seal import DONE, RESUME

# In a folder that is being written: that it is, and no user's .NAME.tmp, and since when.
OURS = ".nt_jax"


def partial_of(run: Path, name: str) -> Path:
    """Where a stage is written."""
    return run / f".{name}.tmp"


def check_ours(folder: Path, known: Collection[str]) -> None:
    """Raises a RunError where a folder that is no stage lies in a stage's place.

    Those of the names `known` are the run's, whatever they have lost.
    """
    if (
        folder.name not in known
        and folder.is_dir()
        and not (folder / DONE).exists()
        and any(folder.iterdir())
    ):
        raise RunError(
            f"{folder} is no stage of a run (it has no {DONE}), and a stage of that name would "
            "replace it. Move it away, or choose another folder with run_dir=DIR."
        )


def fresh(partial: Path) -> None:
    """An empty partial folder, in place of what an older attempt may have left there."""
    clear(partial)
    partial.mkdir()
    (partial / OURS).touch()


def clear(partial: Path) -> None:
    """Delete a partial folder, its mark last: what a kill leaves is known as ours, and as dead."""
    if partial.is_dir() and not partial.is_symlink():
        (partial / RESUME).unlink(missing_ok=True)
        for inside in partial.iterdir():
            if inside.name != OURS:
                remove(inside)
    remove(partial)


def start_of(folder: Path) -> float:
    """When the work in a folder would have begun without its breaks, in seconds of the clock.

    Its mark, OURS, is kept as old as all sessions are long. Each counts up to the last file that it
    wrote; what it did after that is done again.
    """
    if not (at := folder / OURS).exists():
        at.touch()
    last = max(file.stat().st_mtime for file in folder.rglob("*") if file.is_file())
    start = time.time() - (last - at.stat().st_mtime)
    os.utime(at, (start, start))
    return start


def publish(run: Path, name: str) -> None:
    """Put a complete partial folder in the stage's place.

    A folder cannot be renamed over a full one, so the old one steps aside first; `recover` ends the
    swap if the process dies between the two renames.
    """
    partial, final, old = partial_of(run, name), run / name, run / f".{name}.old"
    for mark in (RESUME, OURS):
        (partial / mark).unlink(missing_ok=True)
    remove(old)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    sync(run)
    remove(old)


def recover(run: Path) -> None:
    """End interrupted swaps; delete partial folders of ours that nothing can carry on."""
    sweep(run)
    for partial in run.glob(".*.tmp"):
        if (partial / DONE).exists():
            publish(run, partial.name[1 : -len(".tmp")])
        elif _dead(partial):
            clear(partial)
    for old in run.glob(".*.old"):
        if (run / old.name[1 : -len(".old")] / DONE).exists():
            remove(old)  # a swap that got past its second rename


def _dead(partial: Path) -> bool:
    """Whether a partial folder is of use to nobody: ours, not to be carried on, or still empty."""
    if partial.is_symlink() or not partial.is_dir():
        return False
    if (partial / OURS).exists():
        return not (partial / RESUME).exists()
    return not any(partial.iterdir())  # killed before it had its mark, or after losing it


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A copy of a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="nt_jax-") as place:
        yield shutil.copytree(folder, Path(place, folder.name))
