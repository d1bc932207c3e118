"""A whole grid on the tiny model: one attribution, the bytes of train, nothing overwritten."""

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from rich.console import Console

from nt_jax.config.grid import cells_of, read_axes
from nt_jax.config.load import load_config
from nt_jax.console import shown_on
from nt_jax.errors import ConfigError, DivergedError, RunError
from nt_jax.run.export import run_factors
from nt_jax.run.preflight import read_inputs
from nt_jax.rundir import RunDirectory
from nt_jax.sweep import sweep as room
from nt_jax.train import tune
from tests.run import small
from tests.sweep.test_points import point

pytestmark = pytest.mark.xdist_group("run")
ROOT = Path(__file__).parents[2]
AXES = ("neurons.safety=9,14", "neurons.utility=8,10")
FASTER = ("tune.epochs=2", "tune.validate_every=0", "tune.validation_answers=80")


def cells(recipe, folder, *words):
    axes, rest = read_axes(words or AXES)
    return cells_of(str(recipe), axes, [*small.SETTINGS, *FASTER, f"run_dir={folder}", *rest])


def test_a_run_s_folder_is_no_place_for_a_sweep(recipe, tmp_path, monkeypatch):
    (tmp_path / "train").mkdir()
    known = json.dumps({"keys": {"train": "k"}})
    (tmp_path / "run.json").write_text(known)
    for name in ("read_inputs", "check_cell", "place"):
        monkeypatch.setattr(room, name, mock.MagicMock())
    with pytest.raises(RunError, match="holds a run, whose settings a sweep would replace"):
        room.sweep(cells(recipe, tmp_path))
    assert (tmp_path / "run.json").read_text() == known


def turned(recipe, folder, *words, choice=None) -> tuple[dict, str]:
    """(what a sweep found, its screen)."""
    screen = io.StringIO()
    with small.small_programs(), shown_on(Console(file=screen, width=200)):
        found = room.sweep(cells(recipe, folder, *words), choice)
    return found, screen.getvalue()


@pytest.fixture(scope="module")
def dial(recipe, tmp_path_factory) -> tuple[Path, dict, str]:
    folder = tmp_path_factory.mktemp("dial") / "sweep"
    return folder, *turned(recipe, folder)


def folders(folder: Path) -> list[Path]:
    return sorted((folder / "cells").iterdir())


def test_every_cell_has_a_run_of_its_own_and_attribution_ran_once(dial):
    folder, _, screen = dial
    assert [path.name.rpartition("-")[0] for path in folders(folder)] == [
        f"safety-{s}_utility-{u}" for s in (14, 9) for u in (10, 8)
    ]
    assert screen.count(" nodes, ") == 1  # the line of an attribution
    assert screen.count(f"attribute  as in {folder}") == 4
    for cell in folders(folder):
        mine, shared = (path / "attribute" / "scores.npz" for path in (cell, folder))
        assert mine.read_bytes() == shared.read_bytes() and (cell / "train" / "DONE").exists()


def test_a_cell_has_the_factors_that_train_gives_byte_for_byte(dial, recipe, tmp_path):
    folder, *_ = dial
    words = (*FASTER, "neurons.safety=9", "neurons.utility=10")
    small.carry_on(small.settings(recipe, tmp_path / "alone", *words), "train")
    cell = next(path for path in folders(folder) if path.name.startswith("safety-9_utility-10"))
    for name in ("select/neurons.csv", "train/neurons.csv", "train/metrics.jsonl"):
        assert (cell / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name
    one, other = (run_factors(path)[1] for path in (cell, tmp_path / "alone"))
    assert one.theta_P.tobytes() == other.theta_P.tobytes() and len(one.theta_P) == 19


def test_a_second_sweep_repeats_nothing_and_another_setting_overwrites_nothing(dial, recipe):
    folder, found, _ = dial
    before = {path: small.contents(path) for path in folders(folder)}
    again, screen = turned(recipe, folder)
    assert again == found and "epochs   safety loss" not in screen
    turned(recipe, folder, "neurons.safety=9,14", "neurons.utility=8", "tune.epochs=1")
    assert {path: small.contents(path) for path in before} == before
    added = {*folders(folder)} - {*before}
    assert len(added) == 2 and all("utility" not in path.name for path in added)
    _, screen = turned(recipe, folder, "neurons.safety=9", "neurons.utility=8,10")
    known = [path for path in folders(folder) if path.name.startswith("utility-")]
    assert len(known) == 2 and "epochs   safety loss" not in screen  # of the first grid
    added |= {*known}
    shutil.rmtree(folder / "pareto")
    for path in added:
        shutil.rmtree(path)
    assert turned(recipe, folder)[0] == found


def test_the_table_holds_what_the_cells_measured(dial):
    folder, found, screen = dial
    with (folder / "pareto" / "pareto.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["cell"] == "" and rows[0]["strength"] == "0.0"
    measured = sum(
        len((path / "train" / "strengths.jsonl").read_text().splitlines())
        for path in folders(folder)
    )
    assert len(rows) == 1 + measured and sum(row["kept"] == "1" for row in rows) == 4
    assert [int(row["number"]) for row in rows[1:]] == [*range(1, measured + 1)]
    for row in rows[1:]:
        lines = (folder / "cells" / row["cell"] / "train" / "strengths.jsonl").read_text()
        line = next(
            one for one in map(json.loads, lines.splitlines())
            if one["strength"] == float(row["strength"])
        )  # fmt: skip
        assert float(row["attack"]) == line["refusal_attack"]
        assert float(row["attack_low"]) <= line["refusal_attack"] <= float(row["attack_high"])
    assert (folder / "pareto" / "pareto.png").read_bytes()[:4] == b"\x89PNG"
    assert set(found["picks"]) == {"security", "balanced", "utility"}
    assert "No test set was asked" in screen and "rule       balanced: " in screen
    assert not (folder / "picked").exists() and not (folder / "base").exists()


def test_a_cell_that_was_tuned_again_has_its_new_numbers_in_the_table(tmp_path, monkeypatch):
    """Of the same key: its folder was deleted, and another machine differs in the last bits."""
    config = load_config("smollm2-135m", [f"run_dir={tmp_path}"])
    cell = SimpleNamespace(settings={"neurons.safety": "9"})
    one = SimpleNamespace(config=config, folder=tmp_path / "c", cell=cell, start=None, key="k")
    found = [point(0.5, 0.5, 0.0, kept=True)]
    monkeypatch.setattr(room, "points_of", lambda *_: found)
    monkeypatch.setattr(room, "untuned_point", lambda *_: point(0.0, 0.0, 0.0, 0.0, cell=""))
    monkeypatch.setattr(room, "Validation", mock.MagicMock())
    inputs = SimpleNamespace(records={"validation": None})

    def attacked() -> tuple[float, float]:
        """Of the first point, in (the table, sweep.json)."""
        with shown_on(Console(quiet=True)), RunDirectory(tmp_path) as directory:
            room.results(directory, {"c": one}, inputs)
        folder = tmp_path / "pareto"
        with (folder / "pareto.csv").open(newline="") as file:
            row = list(csv.DictReader(file))[1]
        facts = json.loads((folder / "sweep.json").read_text())
        return float(row["attack"]), facts["points"][0]["rates"]["refusal_attack"]

    assert attacked() == (0.5, 0.5)
    made = (tmp_path / "pareto" / "DONE").stat().st_ino
    assert attacked() == (0.5, 0.5) and (tmp_path / "pareto" / "DONE").stat().st_ino == made
    found[:] = [point(0.6, 0.5, 0.0, kept=True)]
    assert attacked() == (0.6, 0.6)


def test_a_choice_is_measured_alone_and_its_run_is_a_whole_one(dial, recipe):
    folder, found, _ = dial
    again, screen = turned(recipe, folder, choice="balanced")
    run = Path(again["measured"])
    assert run.parent == folder / "picked" and "report     " in screen
    assert {path.name for path in run.iterdir()} == {*small.STAGES, "run.json", ".lock"}
    number = found["picks"]["balanced"]
    with (folder / "pareto" / "pareto.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["number"] == str(number))
    assert run.name.startswith(row["cell"])
    facts = json.loads((run / "run.json").read_text())
    strength = None if row["kept"] == "1" else float(row["strength"])
    assert facts["config"]["export"]["strength"] == strength
    assert facts["stages"]["train"]["taken_from"].endswith(row["cell"])
    assert not any((cell / "base").exists() for cell in folders(folder))
    shutil.rmtree(folder / "picked")


def test_another_strength_of_the_same_cell_takes_the_base_answers_over(dial, recipe):
    folder, *_ = dial
    dials: list = []
    with small.small_programs(), shown_on(Console(file=io.StringIO(), width=200)):
        room.sweep(cells(recipe, folder), None, dials.append)
        mine = [point for point in dials[0].points if point.cell == dials[0].points[0].cell]
        one, other = mine[:2]
        first, second = dials[0].measure(one), dials[0].measure(other)
    assert first != second and (first / "report" / "DONE").exists()
    answers = [(path / "base" / "base.jsonl").read_bytes() for path in (first, second)]
    taken = json.loads((second / "run.json").read_text())["stages"]["base"]["taken_from"]
    assert answers[0] == answers[1] and taken == str(first)
    factors = [run_factors(path)[1].theta_P for path in (first, second)]
    assert not np.array_equal(*factors)
    shutil.rmtree(folder / "picked")


def test_a_killed_sweep_goes_on_and_ends_as_one_that_was_not(dial, recipe, tmp_path):
    whole, found, _ = dial
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.sweep.test_sweep", str(recipe), str(folder)]
    rest = {"cwd": ROOT, "capture_output": True, "text": True, "env": small.compiled()}
    killed = subprocess.run(command, timeout=300, **rest)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert len(list((folder / "cells").glob("*/train/DONE"))) == 1
    again, screen = turned(recipe, folder)
    assert again["picks"] == found["picks"] and screen.count("train      kept from before") == 1
    for cell in folders(whole):
        mine = folder / "cells" / cell.name / "train"
        assert (mine / "neurons.csv").read_bytes() == (cell / "train/neurons.csv").read_bytes()


def test_a_warm_start_is_asked_for_and_named_and_touches_no_cold_cell(dial, recipe):
    folder, *_ = dial
    before = {path: small.contents(path) for path in folders(folder)}
    words = ("neurons.safety=9,14", "neurons.utility=10")
    screen = io.StringIO()
    with small.small_programs(), shown_on(Console(file=screen, width=200)):
        room.sweep(cells(recipe, folder, *words), None, None, warm=True)
    assert {path: small.contents(path) for path in before} == before
    added = sorted({*folders(folder)} - {*before})
    assert [path.name.rpartition("-")[0] for path in added] == ["safety-14", "safety-9"]
    warm, cold = added
    assert f"begun at {cold.name}" in screen.getvalue()
    with (folder / "pareto" / "pareto.csv").open(newline="") as file:
        named = {row["cell"]: row["warm_from"] for row in csv.DictReader(file)}
    assert named == {"": "", cold.name: "", warm.name: cold.name}
    assert "(warm start)" in (folder / "pareto" / "pareto.md").read_text()
    # It begins where the other ended, not at the recipe's first factors, and for half the epochs.
    lines = (warm / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]
    for path in (warm, cold, folder / "pareto"):
        shutil.rmtree(path)
    turned(recipe, folder)


def test_cells_that_diverge_are_left_out_with_those_that_would_begin_at_them(
    recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(room, "tune_cell", diverging := mock.Mock())
    inputs = read_inputs(small.settings(recipe, tmp_path))
    placed = room.place(cells(recipe, tmp_path), tmp_path, inputs, warm=True)
    begun_at = [one.start.run for one in placed.values() if one.start]
    second = [one for one in placed.values() if one.folder in begun_at][-1]
    broken = DivergedError("tuning diverged at epoch 1")

    def tuned(config, *_):
        if config.folder == second.folder:
            raise broken

    diverging.side_effect = tuned
    screen = io.StringIO()
    with shown_on(Console(file=screen, width=200)):
        failed = room.tune_all([*placed.values()], inputs, tmp_path)
    after = {name for name, one in placed.items() if one.start and one.start.run == second.folder}
    assert {*failed} == {second.folder.name} | after and after
    assert screen.getvalue().count("left out") == len(failed) < len(placed)
    monkeypatch.setattr(room, "tune_all", lambda *_: dict.fromkeys(placed, broken))
    with pytest.raises(DivergedError, match="diverged at epoch 1"):
        turned(recipe, tmp_path / "none")


def test_the_time_said_before_it_begins_knows_what_the_cache_holds(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("NT_JAX_CACHE", str(tmp_path / "cache"))
    seconds = lambda *_: dict.fromkeys(small.STAGES, 1000.0)  # noqa: E731
    monkeypatch.setattr(room, "expected_seconds", seconds)
    monkeypatch.setattr(room, "tune_all", lambda *_: {})
    monkeypatch.setattr(room, "results", lambda *_: mock.Mock(picks={}))
    screens = [turned(recipe, tmp_path / name)[1] for name in ("one", "two")]
    told = ["".join(screen.split("about ")[1].split("\n")) for screen in screens]
    assert told[0].startswith("2 h 47 min in all (answers 16:40, attribute 16:40, 4 of 4 cells")
    assert told[1].startswith("2 h 30 min in all (answers 0:05, attribute 16:40, 4 of 4 cells")


def test_an_axis_that_attribution_depends_on_is_refused_before_any_work(recipe, tmp_path):
    with pytest.raises(ConfigError, match="one attribution for all cells"):
        words = ("attribution.score=contrastive", "tune.metric_requests=8", *small.DECISION[4:])
        turned(recipe, tmp_path / "sweep", "neurons.first_layer=0,1", *words)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("choice", ["safest", "9" * 5000])
def test_a_choice_that_is_none_is_refused_before_any_work(choice, recipe, tmp_path):
    with pytest.raises(ConfigError, match=f"'{choice}' is no choice"):
        turned(recipe, tmp_path / "sweep", choice=choice)
    assert not (tmp_path / "sweep").exists()


def main() -> None:
    """A sweep that kills itself within its second cell: RECIPE FOLDER."""
    recipe, folder = Path(sys.argv[1]), Path(sys.argv[2])
    save, saved = tune.save, []

    def save_and_die(to, state):
        save(to, state)
        saved.append(to)
        if len(set(saved)) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(tune, "save", save_and_die), contextlib.suppress(KeyboardInterrupt):
        turned(recipe, folder)


if __name__ == "__main__":
    from tests import conftest  # noqa: F401  the same compiler settings as in the test process

    main()
