"""Numbers of a run in other people's loggers: their files, read back."""

import json
import shutil
import struct
import sys
from pathlib import Path
from unittest import mock

import pytest

from nt_jax.errors import ConfigError
from nt_jax.eval.metrics.result import ResultRow, read_rows
from nt_jax.run.log import check_log, logged, tracked_rows
from nt_jax.track import followed_by, track
from nt_jax.train.state import History
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")


def events(folder: Path) -> list[tuple[str, int, float]]:
    """(name, step, value) of every scalar: TFRecord frames of Event messages."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + size])
        found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
        data = data[16 + size :]
    return found


def config(folder, *names):
    return small.RunConfig.model_validate(
        {"name": "a-run", "model": {"source": "m"}, "run_dir": str(folder), "log": names}
    )


def test_epochs_reach_tensorboard_as_they_are_written(tmp_path):
    pytest.importorskip("tensorboardX", reason="in the extra `log`")
    with logged(config(tmp_path, "tensorboard"), tmp_path):
        history = History(tmp_path / "metrics.jsonl", 0)
        history.write({"epoch": 0, "refusal_attack": 0.25})
        history.write({"epoch": 1, "loss": 2.5, "safety_loss": 1.5})
        History(tmp_path / "strengths.jsonl", 0).write({"epoch": 1, "strength": 0.5, "score": 9.0})
    assert events(tmp_path / "log" / "tensorboard") == [
        ("refusal_attack", 0, 0.25), ("loss", 1, 2.5), ("safety_loss", 1, 1.5)
    ]  # fmt: skip


def test_the_results_of_a_run_are_there_and_change_nothing(finished, tmp_path):
    pytest.importorskip("tensorboardX", reason="in the extra `log`")
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    before = small.contents(folder)
    plain = small.settings(finished.recipe, folder, "log=tensorboard")
    assert small.kept(small.carry_on(plain)) == set(small.STAGES)
    assert not (folder / "log").exists()  # nothing is new, so nothing is logged
    shutil.rmtree(folder / "report")
    small.carry_on(plain)
    found = {name: value for name, _, value in events(folder / "log" / "tensorboard")}
    rows = tracked_rows(read_rows(folder / "report" / "results.json"))
    assert found == pytest.approx(rows, rel=1e-6) and "demo_attack/refusal_rate/tuned" in found
    after = small.contents(folder)
    changed = {n for n in before if after[n] != before[n]}
    assert all(name.startswith("report/") for name in changed)  # the times in it


def test_without_a_log_nobody_follows_and_no_package_is_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with logged(config(tmp_path), tmp_path):
        track(3, {"loss": 1.0})
    assert not [*tmp_path.iterdir()]


def test_followers_hear_within_their_block_only():
    heard = []
    track(0, {"a": 1.0})
    with followed_by(lambda step, values: heard.append((step, values))):
        track(1, {"a": 2.0})
    track(2, {"a": 3.0})
    assert heard == [(1, {"a": 2.0})]


def test_a_missing_package_is_one_line_before_any_work():
    with mock.patch("importlib.util.find_spec", return_value=None):
        for name, extra in (("tensorboard", "log"), ("trackio", "trackio"), ("wandb", "wandb")):
            with pytest.raises(ConfigError, match=rf"pip install 'nt_jax\[{extra}\]'"):
                check_log([name])
    check_log([])


def test_rows_of_several_judges_keep_apart():
    one = ResultRow("a", "refusal_rate", "tuned", 0.5, 4, judge="x")
    other = ResultRow("a", "refusal_rate", "tuned", 0.75, 4, judge="y")
    entropy = ResultRow("a", "entropy", "tuned", 3.0, 4)
    assert tracked_rows([one, entropy]) == {"a/refusal_rate/tuned": 0.5, "a/entropy/tuned": 3.0}
    assert tracked_rows([one, other, entropy]) == {
        "a/refusal_rate/tuned/x": 0.5, "a/refusal_rate/tuned/y": 0.75, "a/entropy/tuned": 3.0
    }  # fmt: skip


def test_wandb_keeps_an_offline_run(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="in the extra `wandb`")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with logged(config(tmp_path, "wandb"), tmp_path):
        track(0, {"loss": 2.5})
        track(1, {"loss": 1.5})
    (file,) = (tmp_path / "log").rglob("*.wandb")
    assert wandb.__version__ and b"loss" in file.read_bytes()


def test_trackio_keeps_a_run(tmp_path, monkeypatch):
    """In a process of its own: where it keeps its files is read at import."""
    pytest.importorskip("trackio", reason="in the extra `trackio`")
    import sqlite3
    import subprocess

    code = """
import sys
from pathlib import Path
from tests.run.test_log import config
from nt_jax.run.log import logged
from nt_jax.track import track
with logged(config(sys.argv[1], "trackio"), Path(sys.argv[1])):
    track(0, {"loss": 2.5})
    track(1, {"loss": 1.5})
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "log" / "trackio").glob("*.db")
    rows = sqlite3.connect(file).execute("select step, metrics from metrics order by step")
    assert [(s, json.loads(m)["loss"]) for s, m in rows.fetchall()] == [(0, 2.5), (1, 1.5)]
