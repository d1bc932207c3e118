"""Finished stages of a run directory, found by what its run.json says now."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nt_jax import processes
from nt_jax.errors import RunError
from nt_jax.facts import read_facts
from nt_jax.rundir import RunDirectory

CELLS = "cells"  # the folder of a sweep's runs


def exported_model(run_dir: Path) -> Path:
    """The Hugging Face folder that a run has exported from the factors it holds now.

    Raises a RunError if there is none, or only that of older settings, or a damaged one.
    """
    if (folder := finished_now(run_dir, "export")) is None:
        raise RunError(
            f"{run_dir} has no exported model in export/hf yet. Carry the run on first: "
            f"python -m nt_jax.train --config ... --run-dir {run_dir}"
        )
    return folder / "hf"


def model_source(name: str) -> str:
    """The model behind `name`: a run directory stands for its exported model."""
    folder = Path(name)
    return str(exported_model(folder)) if (folder / "run.json").is_file() else name


def finished_now(run_dir: Path, name: str) -> Path | None:
    """A stage's folder, its files checked, if it is finished under the run's present settings."""
    key = read_facts(run_dir).get("keys", {}).get(name)
    directory = RunDirectory(run_dir)
    return directory.read(name) if key and directory.finished(name, key) else None


def holds_sweep(folder: Path) -> bool:
    """Whether a sweep's cells lie there."""
    return (folder / CELLS).is_dir()


@contextlib.contextmanager
def held_to_read(run_dir: Path) -> Iterator[RunDirectory]:
    """The run's folder, held while it is read, or as it lies where we may not write."""
    directory = RunDirectory(run_dir)
    ours = processes.from_first(lambda: os.access(run_dir, os.W_OK))  # process 0 alone writes
    with directory if ours else contextlib.nullcontext():
        yield directory
