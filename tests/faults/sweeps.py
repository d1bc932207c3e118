"""Sweeps that are killed: they end with the factors and the table of one that was not."""

import hashlib
import signal
from pathlib import Path

from tests.faults.kills import Runs

# In the order of a sweep of two cells: shared stages, one cell, the other, the table.
POINTS = (
    "attribute:wrote", "epoch:1", "train:renamed", "epoch:2", "train:marked", "pareto:wrote",
)  # fmt: skip
SAME = ("cells/*/select/neurons.csv", "cells/*/train/neurons.csv", "pareto/pareto.csv")


def sweeps(runs: Runs) -> None:
    """One sweep killed at each point in turn, each time by another process, then let to end."""
    whole, killed = runs.root / "dial", runs.root / "dial killed"
    done = runs.child(whole, "none", "SIGKILL", "sweep")
    assert done.returncode == 0, done.stderr[-2000:]
    for point in POINTS:
        done = runs.child(killed, point, "SIGKILL", "sweep")
        met = done.returncode == -signal.SIGKILL
        said = f"{done.returncode} {done.stderr}"
        runs.check(f"sweep killed at {point}", met, "traceback", said)
    done = runs.child(killed, "none", "SIGKILL", "sweep")
    said = f"{done.returncode} {done.stderr}"
    runs.check("sweep after the kills", done.returncode == 0, "traceback", said)
    found, wanted = contents(killed), contents(whole)
    wrong = sorted(name for name in wanted if found.get(name) != wanted[name])
    same = found == wanted and len(wanted) == 2 * 2 + 1
    runs.check("sweep after the kills: same bytes", same, "silent", f"{wrong} of {[*found]}")
    runs.say(f"kills of a sweep {len(POINTS)}")


def contents(folder: Path) -> dict[str, str]:
    """Name -> hash of what a sweep must end with."""
    files = [file for name in SAME for file in sorted(folder.glob(name))]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
