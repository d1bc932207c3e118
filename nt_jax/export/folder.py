"""What every format writes into: a folder that appears when it is whole, and the report of it."""

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec

from nt_jax import processes
from nt_jax.atomic import disk_errors, sync, sync_tree
from nt_jax.config.registry import RANKED
from nt_jax.errors import CheckpointError, ConfigError, RunError
from nt_jax.facts import read_facts

MANIFEST = "nt_jax_export.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
Given = ParamSpec("Given")


@dataclass(frozen=True)
class Wanted:
    """How a format is to be written; each reads what concerns it."""

    dtype: str = "source"  # or float32
    rank: int | None = None  # of a LoRA adapter; None: whatever is exact
    strength: float | None = None  # of the factors: as asked for, then as it is; None: not known
    base: str | None = None  # what the base is called; None: a hub id, or its file's name


@dataclass(frozen=True)
class ExportReport:
    """What was written: changed tensors, how far rounding moved them, and a hash of each file."""

    out: Path
    changed: tuple[str, ...]
    tensors: int
    max_rounding: float  # largest |stored - exact| / |exact| over the changed weights
    sha256: dict[str, str]
    max_logit_difference: float | None = None  # over the largest logit, where it was compared
    lost: str = ""  # what a cut rank leaves out, in words
    notes: tuple[str, ...] = ()  # what to know of it, in words


def by_first(write: Callable[Given, ExportReport]) -> Callable[Given, ExportReport]:
    """`write`, done by process 0 of several alone: the others hear of its report."""

    @functools.wraps(write)
    def written(*args: Given.args, **more: Given.kwargs) -> ExportReport:
        if not processes.several():
            return write(*args, **more)

        def told() -> dict[str, Any]:
            report = write(*args, **more)
            return dataclasses.asdict(report) | {"out": str(report.out)}

        facts = processes.from_first(told)
        facts["changed"], facts["notes"] = tuple(facts["changed"]), tuple(facts["notes"])
        facts["out"] = Path(facts["out"])
        return ExportReport(**facts)

    return written


def check_rank(rank: int | None, formats: Sequence[str]) -> None:
    """Raises a ConfigError, before any work, for a rank that none of `formats` has."""
    if rank is not None and not set(formats) & set(RANKED):
        raise ConfigError(f"--rank is of the formats {' and '.join(RANKED)}: add one, or leave it.")


def is_stage(folder: Path) -> bool:
    """Whether a run has this folder for one of its stages, finished or still to come."""
    try:
        return folder.name in read_facts(folder.parent).get("keys", {})
    except RunError:  # no run.json of ours
        return False


def check_free(out: Path) -> None:
    """Raises a CheckpointError where something stands in the place of `out`, or of its parents.

    Also where it is a folder that no other can take the place of.
    """
    if out.resolve() == Path.cwd() or out.is_mount():
        raise CheckpointError(
            f"{out} is the working directory or a disk of its own, which an export cannot take "
            "the place of. Name a new folder, there or elsewhere."
        )
    inside = next((place for place in (out, *out.parents) if is_stage(place)), None)
    if inside is not None:
        raise CheckpointError(
            f"{inside} is a stage of a run, which holds its own files alone. Choose a folder "
            "beside it, or elsewhere."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        ours = (out / MANIFEST).exists()  # an export of before
        held = (out / "run.json").exists() or ((out / "config.json").exists() and not ours)
        what = "Choose" if held else "Remove it first, or choose"
        raise CheckpointError(f"{out} exists already. {what} another name.")
    above = next((parent for parent in out.parents if parent.exists()), out.parent)
    if above.exists() and not above.is_dir():
        raise CheckpointError(f"{above} is a file, so {out} cannot be. Choose another name.")


@contextmanager
def appearing(out: Path, size: int) -> Iterator[Path]:
    """A temporary sibling of `out` that becomes `out` at the end, or vanishes on any error."""
    check_free(out)
    out = out.resolve()  # behind a link, where the link leads
    with disk_errors(out.parent, "--out DIR"):
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < size:
            raise RunError(
                f"{out} needs {size / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free there. "
                "Free some space or choose another disk; nothing was written."
            )
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            mask = os.umask(0)
            os.umask(mask)
            work.chmod(0o777 & ~mask)  # mkdtemp makes it private
            yield work
            sync_tree(work)
            work.replace(out)
            sync(out.parent)
        finally:
            shutil.rmtree(work, ignore_errors=True)  # gone already if all went well


def digests(folder: Path) -> dict[str, str]:
    """Relative name -> sha256 of every file below `folder`."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): digest(file) for file in files}


def digest(file: Path) -> str:
    """sha256 of a file."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_json(path: Path, value: object) -> None:
    """An indented JSON file."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
