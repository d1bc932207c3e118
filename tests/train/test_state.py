"""What a kill leaves of tuning: checkpoints that can be read, metrics cut back to them."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from nt_jax.config.method import TuneConfig
from nt_jax.errors import RunError
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.models.neurons import NeuronSet
from nt_jax.run.stages import best_state
from nt_jax.train import tune
from nt_jax.train.made_from import MADE_FROM, keep_to
from nt_jax.train.state import History, read_history, restore
from tests.run import small


@pytest.mark.xdist_group("run")
def test_a_damaged_checkpoint_says_what_to_delete(finished, tmp_path):
    folder = shutil.copytree(finished.folder / "train" / "orbax", tmp_path / "orbax")
    config = small.settings(finished.recipe, finished.folder)
    like = best_state(config.tune, finished.folder / "select", finished.folder / "train")
    newest = max(folder.iterdir())
    for file in newest.rglob("*"):
        if file.is_file() and file.stat().st_size:
            file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(RunError, match=f"{newest} is damaged .* Delete it, then repeat"):
        restore(folder, like)
    shutil.rmtree(newest)
    state = restore(folder, like)
    assert state is not None and int(state.epoch) == small.EPOCHS - 1
    assert restore(tmp_path / "nowhere", like) is None


def test_metrics_are_cut_back_to_the_epoch_of_the_checkpoint(tmp_path):
    path = tmp_path / "train" / "metrics.jsonl"
    log = History(path, 0)
    assert log.base is None
    for epoch in range(4):
        log.write({"epoch": epoch, "loss": 1.0})
    with path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    log = History(path, 2)
    assert log.base == {"epoch": 0, "loss": 1.0}
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [0, 1, 2]
    rows = read_history(path.parent, 1)
    assert [row.get("best") for row in rows] == [None, True, None]


@pytest.mark.parametrize("text", ["", "{}\n", "[1]\n", "no JSON}\n", '{"epoch": "x"}\n'])
def test_a_tuning_without_its_history_begins_anew(tmp_path, text):
    folder = tmp_path / ".train.tmp"
    History(folder / "metrics.jsonl", 0).write({"epoch": 1, "loss": 1.0})
    (folder / "metrics.jsonl").write_text(text)
    with pytest.raises(RunError, match=rf"{folder} is damaged \(.*Delete it, then repeat"):
        History(folder / "metrics.jsonl", 2)
    shutil.rmtree(folder)  # as advised
    assert History(folder / "metrics.jsonl", 0).base is None
    (folder / "strengths.jsonl").write_text("no JSON}\n")  # where nothing is lost with it
    with pytest.raises(RunError, match=r"strengths\.jsonl is damaged \(.*Delete it, then repeat"):
        History(folder / "strengths.jsonl", 0)
    (folder / "strengths.jsonl").unlink()
    History(folder / "strengths.jsonl", 0)


def test_a_kill_while_the_history_is_cut_back_leaves_it_whole(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    rows = "".join(json.dumps({"epoch": epoch}) + "\n" for epoch in range(4))
    path.write_text(rows)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), "replace", killed)  # of what was written beside it
    with pytest.raises(KeyboardInterrupt):
        History(path, 2)
    assert path.read_text() == rows
    monkeypatch.undo()
    History(path, 2)
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize("text", ["{", "[[1], [2], [3]]", '[[1], ["2"]]', "[[1], 2]", "5"])
def test_the_untuned_models_answers_are_given_once_more(tmp_path, monkeypatch, text):
    """Their file may be deleted while a tuning is under way; its history has them once."""
    monkeypatch.setattr(
        tune, "look_at", lambda model, judge, prompts, ids: SimpleNamespace(rates={"n": len(ids)})
    )
    model = SimpleNamespace(own_answers=lambda asked, most: [[7], [8]])
    kept, log = tmp_path / "base_validation.json", History(tmp_path / "metrics.jsonl", 0)

    def untuned():
        rest = (None, SimpleNamespace(every=["a", "b"]), log, kept)
        return tune.untuned(model, *rest)

    untuned()
    log.base = {"epoch": 0}  # as a resumed run reads it
    kept.write_text(text)
    with pytest.raises(RunError, match=r"base_validation\.json is damaged \(.*Delete it, then rep"):
        untuned()
    kept.unlink()
    untuned()
    assert json.loads(kept.read_text()) == [[7], [8]]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    kept.write_text("[[], []]")
    untuned()


def test_a_folder_of_another_tuning_is_deleted_or_left(tmp_path):
    neurons = NeuronSet(np.array([0, 1]), np.array([3, 4]), np.array([True, False]))
    tuning = (neurons, 0, None, SimpleNamespace(pools=None, validation=None), TuneConfig(),
              PhraseJudge())  # fmt: skip
    keep_to(tmp_path / "train", "weights", *tuning)
    keep_to(tmp_path / "train", "weights", *tuning)
    for content in (b"other", b"\xff\xfe"):
        (tmp_path / "train" / MADE_FROM).write_bytes(content)
        with pytest.raises(RunError, match=r"of another seed\. Name another folder, or delete it"):
            keep_to(tmp_path / "train", "weights", *tuning)
        keep_to(tmp_path / "other", "weights", *tuning)
        shutil.rmtree(tmp_path / "train")
        keep_to(tmp_path / "train", "weights", *tuning)
