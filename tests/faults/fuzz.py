"""The fuzzer: damaged inputs, each read in a process of its own, and what became of them."""

import contextlib
import gc
import importlib
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from nt_jax.errors import NtError
from tests.faults.box import DIED, HANG, OK, REFUSED, TRACEBACK, attempt
from tests.faults.damage import CANARY
from tests.faults.targets import Target, fresh

# What one input may take: seconds by the clock and of a core, and bytes.
WALL, CPU, MEMORY = 300.0, 30, 3 << 30
SILENT, ESCAPE = "silent", "escape"
SHOWN = 3  # problems of a target whose inputs are kept and shown


def fuzz(name: str, target: Target, cases: int, number: int, root: Path) -> Counter[str]:
    """Read `cases` damaged inputs of a target; how many ended how. Problems are kept in `root`."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        (good_folder := Path(scratch) / "good").mkdir()
        good = target.make(good_folder)
        _warm(target, good)
        gc.collect()
        gc.freeze()  # or a collection in each child would copy all that was imported

        @seed(number)
        @settings(
            max_examples=cases, database=None, deadline=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(st.data())
        def one(data: st.DataObject) -> None:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            path = fresh(good, folder)
            target.hurt(data, path)
            counts["cases"] += 1
            kind, said = try_one(target, path, Path(scratch))
            counts[kind] += 1
            if kind not in (OK, REFUSED) and counts[kind] <= SHOWN:
                kept = root / f"{name}-{kind}-{counts[kind]}".replace(" ", "-")
                shutil.copytree(folder, kept, dirs_exist_ok=True, symlinks=True)
                print(f"  {name}: {kind}: {said[-600:]}\n  input kept in {kept}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)

        one()
    return counts


def try_one(target: Target, path: Path, scratch: Path) -> tuple[str, str]:
    """(how one input ended, what was said)."""
    work = scratch / "cwd"
    work.mkdir(exist_ok=True)
    outcome = attempt(lambda: _read(target, path, work), WALL, MEMORY, CPU)
    if (work / CANARY).exists() or (path.parent / CANARY).exists() or any(work.iterdir()):
        shutil.rmtree(work)
        return ESCAPE, "an input ran code, or wrote outside"
    if outcome.kind == OK:
        return outcome.value
    if outcome.kind == DIED:
        return TRACEBACK, f"the process died: {outcome.value}"
    if outcome.kind == REFUSED and not str(outcome.value).strip():
        return TRACEBACK, "refused without a word"
    return outcome.kind, str(outcome.value)


def _read(target: Target, path: Path, work: Path) -> tuple[str, str]:
    """In the child: what is read, and whether another reader agrees."""
    os.chdir(work)
    found = target.read(path)
    try:
        target.oracle(path, found)
    except Exception:
        return SILENT, traceback.format_exc()
    return OK, ""


def _warm(target: Target, good: Path) -> None:
    """Import in the parent what readers import, so that children need not."""

    def modules() -> list[str]:
        with contextlib.suppress(NtError):  # the good file of some formats is written by the damage
            target.oracle(good, target.read(good))
        return sorted(sys.modules)

    if target.warm:
        modules()
        return
    for name in attempt(modules).value:  # in a child: it would start jax, which children cannot use
        with contextlib.suppress(Exception):  # what says by an error that it is not for this system
            importlib.import_module(name)


def fuzz_all(
    targets: dict[str, Target],
    cases: int,
    number: int,
    root: Path,
    say: Callable[[str], None] = print,
) -> Counter[str]:
    """All targets, `cases` shared evenly; the sum of their counts."""
    total: Counter[str] = Counter()
    each = -(-cases // len(targets))
    for place, (name, target) in enumerate(targets.items()):
        counts = fuzz(name, target, each, number + place, root)
        say(f"fuzz {name:<14} {json.dumps(counts)}")
        total += counts
    return total


__all__ = ["ESCAPE", "HANG", "SILENT", "fuzz", "fuzz_all", "try_one"]
