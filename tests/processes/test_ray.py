"""Tasks by a real cluster of Ray, lost ones again; a sweep and a comparison by it and serially."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from nt_jax import exits
from nt_jax.errors import DataError
from nt_jax.run.by_ray import Piece, joined, work_off
from tests.compare import small as comparison
from tests.processes import ray_cluster
from tests.processes.group import alone, environment
from tests.run import small

pytestmark = [
    pytest.mark.procs, pytest.mark.slow, pytest.mark.xdist_group("procs"), ray_cluster.NEEDED,
]  # fmt: skip
HERE = "tests.processes.pieces"
# Two cells of one program, which is what takes long here.
GRID = (
    "tune.epochs=1,2", "tune.inner_steps=0", "tune.validate_every=0", "tune.validation_answers=80",
    "tune.strengths=[0.5,1]",
)  # fmt: skip


@pytest.fixture(scope="module")
def address(programs):
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ray_cluster.LOCAL.items():
            patch.setenv(name, value)
        with ray_cluster.cluster(folder, environment(programs)) as found:
            yield found
    shutil.rmtree(folder, ignore_errors=True)


def worked_off(address: str, *pieces: Piece) -> dict:
    with joined(address, 1) as cluster:
        assert (cluster.gpus, cluster.ways) == (0, 2)
        return {piece.name: found for piece, found in work_off(cluster, pieces)}


def test_every_piece_is_a_process_in_the_folder_of_the_command(address, monkeypatch):
    monkeypatch.setenv("NT_JAX_TOLD", "yes")
    pieces = [Piece(f"{n}", f"{HERE}:told", (n,)) for n in range(3)]
    found = worked_off(address, *pieces)
    assert {name: rest for name, (_, _, *rest) in found.items()} == {
        f"{n}": [os.getcwd(), "yes"] for n in range(3)
    }
    assert len({pid for _, pid, *_ in found.values()} | {os.getpid()}) == 4


def test_a_lost_process_is_started_again_and_finds_what_the_first_left(address, tmp_path):
    piece = Piece("cell", f"{HERE}:dies_once", (tmp_path / "mark",))
    assert worked_off(address, piece) == {"cell": "left"}


def test_an_error_of_ours_comes_with_the_name_of_the_piece(address):
    with pytest.raises(DataError, match=r"^cell: no rows$"):
        worked_off(address, Piece("cell", f"{HERE}:fails", ("no rows",)))
    with pytest.raises(KeyError):  # and Ray's own error besides, which holds the traceback there
        worked_off(address, Piece("cell", f"{HERE}:has_a_bug", ()))


def swept(recipe: Path, folder: Path, programs: Path, *words: str) -> str:
    told = ["-m", "nt_jax.sweep", "--config", str(recipe), *small.SETTINGS, *GRID, *words]
    done = alone([*told, f"run_dir={folder}"], programs)
    assert done.code == exits.DONE, done
    return done.out


def test_a_sweep_by_ray_ends_with_the_files_of_a_serial_one(
    address,
    recipe,
    programs,
    tmp_path,
):
    one, other = tmp_path / "one" / "sweep", tmp_path / "other" / "sweep"
    swept(recipe, one, programs)
    said = swept(recipe, other, programs, "--ray", address)
    assert f"2 cells, 2 at a time, by the cluster at {address}" in said
    names = [path.name for path in sorted((one / "cells").iterdir())]
    assert len(names) == 2 and names == [p.name for p in sorted((other / "cells").iterdir())]
    same = [f"cells/{name}/{file}" for name in names for file in (
        "select/neurons.csv", "train/neurons.csv", "train/metrics.jsonl", "train/strengths.jsonl",
    )]  # fmt: skip
    for name in (*same, "pareto/pareto.csv", "pareto/pareto.md", "pareto/pareto.png"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert "kept from before" in swept(recipe, other, programs, "--ray", address)


def compared(recipe: Path, folder: Path, programs: Path, *words: str) -> str:
    told = ["-m", "nt_jax.compare", "--config", str(recipe), *small.SETTINGS, *comparison.SETTINGS]
    done = alone([*told, f"run_dir={folder}", "--methods", "dinm,scans", *words], programs)
    assert done.code == exits.DONE, done
    return done.out


def test_a_comparison_by_ray_has_the_numbers_of_a_serial_one(
    address, one, recipe, programs, tmp_path
):
    serial, by_ray = (shutil.copytree(one, tmp_path / name / "run") for name in ("one", "other"))
    compared(recipe, serial, programs)
    said = compared(recipe, by_ray, programs, "--ray", address)
    assert f"2 methods, 2 at a time, by the cluster at {address}" in said
    assert not (by_ray / "compare" / "by_ray").exists()
    numbers = serial / "compare" / "numbers"
    files = sorted(path.relative_to(serial) for path in numbers.glob("*.[jc]s*"))
    assert files
    for file in files:
        assert (by_ray / file).read_bytes() == (serial / file).read_bytes(), file
