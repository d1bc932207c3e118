"""How the folder of a stage takes its place in a run directory, whatever kills the process then."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nt_jax.atomic import remove, sweep, sync
from nt_jax.seal import DONE, RESUME


def partial_of(run: Path, name: str) -> Path:
    """Where a stage is written."""
    return run / f".{name}.tmp"


def publish(run: Path, name: str) -> None:
    """Put a complete partial folder in the stage's place.

    A folder cannot be renamed over a full one, so the old one steps aside first; `recover` ends the
    swap if the process dies between the two renames.
    """
    partial, final, old = partial_of(run, name), run / name, run / f".{name}.old"
    (partial / RESUME).unlink(missing_ok=True)
    remove(old)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    sync(run)
    remove(old)


def recover(run: Path) -> None:
    """End interrupted swaps; delete partial folders that nothing can carry on."""
    sweep(run)
    for partial in run.glob(".*.tmp"):
        if (partial / DONE).exists():
            publish(run, partial.name[1 : -len(".tmp")])
        elif not (partial / RESUME).exists():
            remove(partial)
    for old in run.glob(".*.old"):
        remove(old)  # a swap that got past its second rename


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """A copy of a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="nt_jax-") as place:
        yield shutil.copytree(folder, Path(place, folder.name))
