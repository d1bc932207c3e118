"""Damaged files and places that cannot be written: what the messages advise is done, and helps."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from nt_jax.atomic import disk_errors, write_atomic
from nt_jax.attribution.store import (
    load_attribution,
    load_neurons,
    load_scores,
    load_set,
    save_attribution,
    save_neurons,
    save_set,
)
from nt_jax.errors import RunError
from nt_jax.eval.answer_file import RecordFile, answer_rows, asked
from nt_jax.eval.metrics.result import read_rows, write_rows
from nt_jax.finished import finished_now
from nt_jax.rundir import RunDirectory
from nt_jax.seal import reading
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.own_answers import read_own_answers
from nt_jax.train.safety_targets import SafetyTargets
from nt_jax.train.state import read_history
from tests.advice import KEY, carried, deleted, followed, unprivileged
from tests.attribution.test_store import example
from tests.eval.test_answer_file import PROMPTS
from tests.train.test_own_answers import EOS, own_file
from tests.train.test_slopes import random_cells

ROWS = [{"layer": 0, "index": 3, "set": "safety", "rank": 1, "score": 0.5}]
NPZ = (b"", b"PK\x03\x04 cut short", b"no archive", None)
TEXT = (b"{", b'{"set": "harmless"}\n', b"\xff", b"[" * 100_000, None)


class File(NamedTuple):
    """A file of a stage: how it is written and read, and what else may stand in its place."""

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    damage: tuple[bytes | None, ...]


def _zeros(path: Path) -> None:
    np.savez(path, harmful=np.zeros((2, 2)))


FILES = (
    File("own_answers.jsonl", own_file, lambda f: read_own_answers(f, EOS), TEXT),
    File("safety_targets.json", SafetyTargets("given", "why").write, SafetyTargets.read, TEXT),
    File(
        "slopes.npz", lambda f: random_cells().save(f / "slopes.npz"),
        lambda f: CellSlopes.load(f / "slopes.npz"), NPZ,
    ),
    File(
        "safety-000.npz", lambda f: save_attribution(f / "safety-000.npz", example(0)),
        lambda f: load_attribution(f / "safety-000.npz"), NPZ,
    ),
    File(
        "safety.npz", lambda f: save_set(f / "safety.npz", np.ones((2, 6)), np.ones((2, 6))),
        lambda f: load_set(f / "safety.npz"), NPZ,
    ),
    File(
        "utility.npz",
        lambda f: [save_set(f / f"{n}.npz", np.ones((2, 6)), np.ones((2, 6)))
                   for n in ("safety", "utility")],
        load_scores, NPZ,
    ),
    File(
        "neurons.csv", lambda f: save_neurons(f, ROWS), lambda f: load_neurons(f / "neurons.csv"),
        (b"layer,index,set\n1,many,safety\n", b"layer,set\n1,safety\n", b"\xff", None),
    ),
    File(
        "base.jsonl",
        lambda f: RecordFile(f / "base.jsonl").append(
            answer_rows("base", PROMPTS, ["Sure."] * len(PROMPTS))
        ),
        lambda f: RecordFile(f / "base.jsonl").in_order(map(asked, PROMPTS)),
        (b'{"id": 1}\n', b"[1}\n", b"", None),
    ),
    File(
        "results.json", lambda f: write_rows(f / "results.json", []),
        lambda f: read_rows(f / "results.json"), (b"{", b'[{"metric": 1}]', b"[1]", None),
    ),
    File(
        "metrics.jsonl", lambda f: (f / "metrics.jsonl").write_text('{"epoch": 1}\n'),
        lambda f: read_history(f, 1), (b"{\n", b"\xff\n", None),
    ),
)  # fmt: skip


def spoil(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize("version", ["this", "the last", "unfinished"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_damaged_file_is_deleted_as_advised_and_made_again(file, version, tmp_path):
    """Both by the digest in DONE and by whoever reads it, which is all where DONE holds none."""
    stage = carried(tmp_path / "run", file.make)
    before = {path.name: path.read_bytes() for path in stage.iterdir() if path.name != "DONE"}
    for content in file.damage:
        spoil(stage / file.name, content)
        if version == "the last":
            (stage / "DONE").write_text(KEY)
        elif version == "unfinished":  # as a kill leaves it: the file alone has to go
            (stage / "DONE").unlink()
        with pytest.raises(RunError) as caught:
            finished_now(tmp_path / "run", "made")
            file.read(stage)
        gone = deleted(caught.value)
        assert "\n" not in str(caught.value)
        assert gone.name == (file.name if version == "unfinished" else "made")
        carried(tmp_path / "run", file.make)
        file.read(stage)
        again = {path.name: path.read_bytes() for path in stage.iterdir() if path.name != "DONE"}
        assert again == before


def test_slopes_of_other_cells_are_deleted_and_measured_again(tmp_path):
    stage = carried(tmp_path, lambda f: random_cells().save(f / "slopes.npz"))
    np.savez(stage / "slopes.npz", harmful=np.zeros((2, 2)))
    (stage / "DONE").write_text(KEY)
    with pytest.raises(RunError, match=r"slopes\.npz") as caught:
        CellSlopes.load(stage / "slopes.npz")
    assert deleted(caught.value) == stage
    carried(tmp_path, lambda f: random_cells().save(f / "slopes.npz"))
    CellSlopes.load(stage / "slopes.npz")


@pytest.mark.parametrize("place", ["run.json", ".lock", "made"])
def test_what_stands_in_the_place_of_a_file_is_deleted_as_advised(place, tmp_path):
    def make(folder: Path) -> None:
        (folder / "x").touch()

    stage = carried(tmp_path, make)
    if place == "made":
        stage.rename(tmp_path / "elsewhere")
        stage.touch()
    else:
        (tmp_path / place).unlink(missing_ok=True)
        (tmp_path / place).mkdir()
    with pytest.raises(RunError) as caught:
        carried(tmp_path, make)
    assert deleted(caught.value) == tmp_path / place
    assert (carried(tmp_path, make) / "x").exists()


# --- permissions ---------------------------------------------------------------------------------


def of_a_closed_folder(folder: Path):
    folder.chmod(0o555)
    yield lambda: carried(folder / "run", Path.touch), "Change its permissions, or choose another"
    folder.chmod(0o755)


def of_a_closed_run(folder: Path):
    (folder / "run").mkdir(0o555)
    yield lambda: carried(folder / "run", Path.touch), "Change its permissions, or choose another"
    yield lambda: carried(folder / "other", Path.touch)


def of_a_file_that_may_not_be_replaced(folder: Path):
    folder.chmod(0o555)
    yield lambda: write_atomic(folder / "x", b"x"), "Change its permissions"
    folder.chmod(0o755)


def of_a_file_that_may_not_be_read(folder: Path):
    path = folder / "rows.json"
    path.write_text("{}")
    path.chmod(0)

    def read() -> dict:
        with reading(path):
            return json.loads(path.read_text())

    yield read, r"cannot be read: Permission denied\. Change its permissions, then repeat"
    path.chmod(0o600)


def of_a_stage_that_may_not_be_read(folder: Path):
    stage = carried(folder / "run", lambda to: (to / "x").write_text("x"))
    (stage / "x").chmod(0)
    yield (
        lambda: finished_now(folder / "run", "made"),
        r"made/x cannot be read: Permission denied\. Change its permissions, then repeat",
    )
    (stage / "x").chmod(0o600)


@pytest.mark.parametrize(
    "case",
    [
        of_a_closed_folder, of_a_closed_run, of_a_file_that_may_not_be_replaced,
        of_a_file_that_may_not_be_read, of_a_stage_that_may_not_be_read,
    ],
    ids=lambda case: case.__name__,
)  # fmt: skip
def test_permissions_are_changed_as_advised(case):
    with unprivileged() as folder:
        try:
            followed(case(folder))
        finally:
            folder.chmod(0o755)


# --- places that permissions cannot help ---------------------------------------------------------


def below_a_file(folder: Path):
    (folder / "file").touch()
    said = (
        r"cannot write to .*Not a directory.*file/run\. Choose another folder with run_dir=DIR\.$"
    )
    yield lambda: carried(folder / "file" / "run", Path.touch), said
    yield lambda: carried(folder / "other", Path.touch)


def in_place_of_a_folder(folder: Path):
    (folder / "run").touch()
    said = r"run is a file\. Choose another folder with run_dir=DIR"
    yield lambda: carried(folder / "run", Path.touch), said
    yield lambda: carried(folder / "other", Path.touch)


def on_a_disk_that_cannot_be_written(folder: Path):
    def write(to: Path) -> None:
        with disk_errors(to):
            if to.name == "read-only":
                raise OSError(30, os.strerror(30), str(to))

    said = r"Read-only file system: .*read-only\. Choose another folder with run_dir=DIR\.$"
    yield lambda: write(folder / "read-only"), said
    yield lambda: write(folder / "other")


def on_a_full_disk(folder: Path):
    full = folder / "full"
    full.symlink_to("/dev/full")

    def write() -> None:
        with RunDirectory(folder / "run") as run, run.stage("train", KEY):
            full.write_text("x")

    yield write, r"no space left on the disk .*Free some, then repeat this command"
    full.unlink()


def of_another_process(folder: Path):
    with RunDirectory(folder):
        yield lambda: carried(folder, Path.touch), "is in use by .*Wait until it ends, or choose"


def of_another_process_elsewhere(folder: Path):
    with RunDirectory(folder / "run"):
        yield lambda: carried(folder / "run", Path.touch), "or choose another folder with run_dir="
        yield lambda: carried(folder / "other", Path.touch)


@pytest.mark.parametrize(
    "case",
    [
        below_a_file, in_place_of_a_folder, on_a_disk_that_cannot_be_written, on_a_full_disk,
        of_another_process, of_another_process_elsewhere,
    ],
    ids=lambda case: case.__name__,
)  # fmt: skip
def test_another_place_or_a_wait_helps_as_advised(case, tmp_path):
    followed(case(tmp_path))
