"""What the seconds of table 2 count: all sessions, and what a fit takes from the run."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nt_jax.compare import search
from nt_jax.compare.method import SECONDS, Method
from nt_jax.compare.methods import ablations, neurontune
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import AttributionConfig, RunConfig, TuneConfig
from nt_jax.rundir import RunDirectory

BREAK = 3600.0


def pause(folder: Path) -> None:
    """As if everything in `folder` had been written an hour ago."""
    for path in folder.rglob("*"):
        if path.is_file():
            found = path.stat()
            os.utime(path, (found.st_atime - BREAK, found.st_mtime - BREAK))


def later(path: Path, seconds: float) -> None:
    """As if that file had been written so many seconds from now."""
    path.write_text("x")
    os.utime(path, (time.time() + seconds, time.time() + seconds))


def session(run: RunDirectory, file: str, seconds: float) -> None:
    """A session of a stage that writes a file after so many seconds and is killed."""
    with pytest.raises(KeyboardInterrupt), run.stage("train", "k", resumable=True) as folder:
        later(folder / file, seconds)
        raise KeyboardInterrupt
    pause(run.path / ".train.tmp")


def test_a_stage_that_was_interrupted_took_as_long_as_all_its_sessions(tmp_path):
    with RunDirectory(tmp_path) as run:
        session(run, "one", 100)
        session(run, "two", 20)
        session(run, "two", 0)  # killed before it wrote more
        with run.stage("train", "k", resumable=True):
            pass
        assert run.seconds()["train"] == pytest.approx(120, abs=5)
        session(run, "one", 100)
        with run.stage("train", "other", resumable=True):  # begins anew
            pass
        assert run.seconds()["train"] == pytest.approx(0, abs=5)
        with run.stage("select", "k"):
            pass
        assert run.seconds()["select"] == pytest.approx(0, abs=5)


def test_a_fit_that_was_interrupted_took_as_long_as_all_its_sessions(tmp_path):
    killed = [100.0, 20.0, 0.0]

    def fit(data, setting, folder: Path):
        if killed:
            later(folder / "state", killed.pop(0))
            raise KeyboardInterrupt
        return {"x": np.ones(2), SECONDS: np.asarray(7.0)}

    method = Method("m", "M", fit, lambda *_: None)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search._fitted(None, method, {}, tmp_path)
        pause(tmp_path)
    learned = search._fitted(None, method, {}, tmp_path)
    assert learned[SECONDS] == pytest.approx(127, abs=5)
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"state", "learned.npz"}
    assert search._fitted(None, method, {}, tmp_path)[SECONDS] == learned[SECONDS]


@pytest.mark.parametrize(
    ("maker", "score", "expected"),
    [
        (neurontune.descent, CONTRASTIVE, 110),
        (neurontune.paper, "integrated", 110),
        (ablations.without_adjustment, CONTRASTIVE, 110),
        (ablations.random, CONTRASTIVE, 100),  # the slopes of neurons that no score has chosen
        (ablations.random, "integrated", 0),
        (lambda: ablations.without_pinpointing(1), CONTRASTIVE, 100),
    ],
)
def test_what_a_fit_takes_from_the_run_counts_as_its_own(maker, score, expected, monkeypatch):
    took = {"answers": 1.0, "attribute": 100.0, "select": 10.0, "train": 1000.0}
    for room in (neurontune, ablations):
        monkeypatch.setattr(room, "tuned", lambda *_: {})
    monkeypatch.setattr(ablations, "drawn", lambda *_: None)
    monkeypatch.setattr(ablations, "initial_theta", lambda *_: np.ones(2))
    monkeypatch.setattr(ablations, "Factors", lambda *_: SimpleNamespace(arrays=dict))
    config = RunConfig.model_construct(
        tune=TuneConfig(), attribution=AttributionConfig(score=score), seed=0
    )
    data = SimpleNamespace(
        config=config, run=SimpleNamespace(seconds=lambda: took), neurons=None,
        pools_for=lambda _: None, with_whole_refusals=lambda _: None,
    )  # fmt: skip
    assert maker().fit(data, {}, Path())[SECONDS] == expected


def test_first_factors_are_searched_as_those_that_were_tuned():
    assert ablations.without_adjustment().settings == neurontune.descent().settings
