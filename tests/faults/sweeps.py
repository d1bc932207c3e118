"""Sweeps that are killed: they end with the factors and the table of one that was not."""

import hashlib
from pathlib import Path

from tests.faults.kills import Runs

# In the order of a sweep of two cells: shared stages, one cell, the other, the table.
POINTS = (
    "attribute:wrote", "epoch:1", "train:renamed", "epoch:2", "train:marked", "pareto:wrote",
)  # fmt: skip
SAME = ("cells/*/select/neurons.csv", "cells/*/train/neurons.csv", "pareto/pareto.csv")


def sweeps(runs: Runs) -> None:
    """One sweep killed at each point in turn, each time by another process, then let to end."""
    runs.kills_of("sweep", POINTS, contents, 2 * 2 + 1)


def contents(folder: Path) -> dict[str, str]:
    """Name -> hash of what a sweep must end with."""
    files = [file for name in SAME for file in sorted(folder.glob(name))]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
