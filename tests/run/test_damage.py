"""Damage to a finished run: one line that names what to delete, and deleting that helps."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from nt_jax import cli, seal
from nt_jax.attribution.store import load_neurons
from nt_jax.errors import RunError
from nt_jax.finished import exported_model
from nt_jax.generate import chat
from nt_jax.run.export import export_run
from nt_jax.run.stages import best_state
from nt_jax.rundir import RunDirectory
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")
WEIGHTS = Path("export", "hf", "model.safetensors")


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run to damage."""
    return shutil.copytree(finished.folder, tmp_path / "run")


def flip(file: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def message_of(finished, folder: Path) -> str:
    """What carrying the run on says, no weights being read for it."""
    with pytest.raises(RunError) as caught:
        small.carry_on(small.settings(finished.recipe, folder))
    return str(caught.value)


def test_one_bit_of_any_file_stops_every_command_that_reads_its_stage(finished, copied):
    """All stages and kinds of files: CSV, JSONL, JSON, npz, Orbax, safetensors, pictures."""
    files = [f for f in copied.glob("*/**/*") if f.is_file() and f.name != "DONE"]
    files = [f for f in files if f.stat().st_size]
    assert {f.relative_to(copied).parts[0] for f in files} == set(small.STAGES)
    missed = []
    for file in files:
        stage = file.relative_to(copied).parts[0]
        flip(file)
        try:
            RunDirectory(copied).read(stage)
            missed.append(file)
        except RunError as error:
            assert str(copied / stage) in str(error)
        flip(file)
    assert len(files) > 40
    assert missed == [copied / "export" / "hf" / "README.md"]  # written again with the results
    assert small.kept(small.carry_on(small.settings(finished.recipe, copied))) == set(small.STAGES)


def test_another_index_gives_no_other_export(finished, copied, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "load_weights", lambda *_: pytest.fail("weights were read"))
    table = copied / "select" / "neurons.csv"
    text = table.read_text()
    row = text.splitlines()[1]
    layer, index, rest = row.split(",", 2)
    table.write_text(text.replace(row, f"{layer},{(int(index) + 1) % 48:0{len(index)}d},{rest}"))
    said = message_of(finished, copied)
    assert said.startswith(f"{copied / 'select'} is not as it was finished: neurons.csv (")
    with pytest.raises(RunError, match=r"neurons\.csv \("):
        export_run(copied, tmp_path / "out")
    assert not (tmp_path / "out").exists()


ADVISED = {
    "answers/own_answers.jsonl": "answers", "answers/safety_targets.json": "answers",
    "attribute/safety-000.npz": "attribute", "base/base.jsonl": "base",
    "report/results.json": "report", "eval/scores.json": "eval",
}  # fmt: skip


@pytest.mark.parametrize("file", ADVISED)
def test_a_damaged_stage_is_deleted_and_done_again(file, finished, copied):
    (copied / file).write_text("no JSON\n")
    said = message_of(finished, copied)
    stage = copied / ADVISED[file]
    assert f"Delete the folder {stage}, then repeat the command that made it" in said
    shutil.rmtree(stage)
    screen = small.carry_on(small.settings(finished.recipe, copied))
    assert small.kept(screen) >= set(small.STAGES) - {ADVISED[file], "report"}
    for name in (file, "base/base.jsonl", "report/results.json", "eval/answers.jsonl"):
        assert (copied / name).read_bytes() == (finished.folder / name).read_bytes()


def as_the_last_version(folder: Path) -> None:
    """DONE as it was: the key alone."""
    for done in folder.glob("*/DONE"):
        done.write_text(json.loads(done.read_text())["key"])


def newest_checkpoint(folder: Path) -> Path:
    return max((folder / "train" / "orbax").iterdir())


def test_a_damaged_checkpoint_of_a_finished_tuning_is_tuned_again(finished, copied):
    """The older one beside it would be another model under the same neurons.csv."""

    def blot() -> None:
        for file in newest_checkpoint(copied).rglob("*"):
            if file.is_file() and file.stat().st_size:
                file.write_bytes(b"\0" * file.stat().st_size)

    blot()
    advised = f"Delete the folder {copied / 'train'}, then repeat the command that made it"
    assert advised in message_of(finished, copied)
    shutil.rmtree(copied / "train")
    config = small.settings(finished.recipe, copied)
    assert small.kept(small.carry_on(config)) == set(small.STAGES) - {"train"}
    state = best_state(config.tune, copied / "select", copied / "train")
    _, rows = load_neurons(copied / "train" / "neurons.csv")
    assert [row["factor"] for row in rows] == np.asarray(state.best_P).tolist()
    assert [row["factor"] for row in rows] == [
        row["factor"] for row in load_neurons(finished.folder / "train" / "neurons.csv")[1]
    ]
    as_the_last_version(copied)
    shutil.rmtree(copied / "export")  # whose making reads the checkpoint
    blot()
    assert advised in message_of(finished, copied)


def test_an_older_checkpoint_alone_is_not_taken_for_the_finished_one(finished, copied, tmp_path):
    """What the last version advised: delete the newest."""
    shutil.rmtree(newest_checkpoint(copied))
    assert f"Delete the folder {copied / 'train'}" in message_of(finished, copied)
    with pytest.raises(RunError, match="Delete the folder"):
        export_run(copied, tmp_path / "out")


def test_a_run_of_the_last_version_loads(finished, copied, tmp_path):
    as_the_last_version(copied)
    screen = small.carry_on(small.settings(finished.recipe, copied))
    assert small.kept(screen) == set(small.STAGES)
    assert screen.count("by an older version: its files cannot be checked") == len(small.STAGES)
    assert exported_model(copied) == copied / "export" / "hf"
    export_run(copied, tmp_path / "out")
    made = (tmp_path / "out" / WEIGHTS.name).read_bytes()
    assert made == (copied / WEIGHTS).read_bytes()


def test_a_damaged_export_is_not_loaded(finished, copied, monkeypatch, capsys):
    monkeypatch.setattr(seal, "LARGE", 1000)
    monkeypatch.setattr(cli, "_enter", lambda: None)
    monkeypatch.setattr(chat, "load_weights", lambda *_: pytest.fail("weights were read"))
    flip(copied / WEIGHTS)
    os.utime(copied / WEIGHTS, ns=(0, 0))
    words = ["--config", str(finished.recipe), *small.SETTINGS, "--run-dir", str(copied)]
    assert cli.main("train", words) == 0  # known by size and time
    assert cli.main("train", [*words, "--verify"]) == 2
    assert "hf/model.safetensors (its sha256 is not the one in DONE)" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"model\.safetensors \("):
        exported_model(copied)


def test_a_deleted_run_json_is_made_again(finished, copied, tmp_path):
    (copied / "run.json").write_text('{"keys": ')
    assert "Delete it, then repeat the command that made it" in message_of(finished, copied)
    (copied / "run.json").unlink()
    with pytest.raises(RunError, match="is not a run directory"):
        export_run(copied, tmp_path / "out")
    assert small.kept(small.carry_on(small.settings(finished.recipe, copied))) == set(small.STAGES)
    export_run(copied, tmp_path / "out")
