"""What a second run keeps, and what a killed one loses: nothing."""

import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from nt_jax.generate import chat
from nt_jax.run import said
from nt_jax.run.stages import best_state
from nt_jax.train.state import restore
from nt_jax.train.tune import fresh_state
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")
ROOT = Path(__file__).parent.parent.parent


def last_state(config, folder):
    from nt_jax.attribution.store import load_neurons

    neurons, _ = load_neurons(folder / "select" / "neurons.csv")
    return restore(folder / "train" / "orbax", fresh_state(config.tune, neurons))


def test_a_second_run_keeps_every_stage_and_reads_no_weights(finished, monkeypatch):
    before = small.contents(finished.folder)
    monkeypatch.setattr(chat, "load_weights", lambda *_: pytest.fail("weights were read"))
    screen = small.carry_on(small.settings(finished.recipe, finished.folder))
    assert small.kept(screen) == set(small.STAGES)
    assert small.contents(finished.folder) == before


def test_a_run_killed_while_tuning_ends_with_the_same_factors_bit_for_bit(
    finished, tmp_path, monkeypatch
):
    told = []
    expected = said.expected_seconds
    monkeypatch.setattr(
        said, "expected_seconds", lambda *rest: told.append(rest[-1]) or expected(*rest)
    )
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "tests.run.small", str(finished.recipe), str(folder), "1"]
    rest = {"cwd": ROOT, "capture_output": True, "text": True, "env": small.compiled()}
    killed = subprocess.run(command, timeout=300, **rest)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (folder / "train").exists()
    config = small.settings(finished.recipe, folder)
    screen = small.carry_on(config)
    assert small.kept(screen) == {"answers", "attribute", "select"}
    assert told == [1 - 1 / config.tune.epochs]  # the time it says is that of what is left
    whole, resumed = (last_state(config, path) for path in (finished.folder, folder))
    assert jax.tree.structure(whole) == jax.tree.structure(resumed)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_another_count_repeats_neither_answers_nor_attribution(finished, tmp_path):
    import shutil

    folder = shutil.copytree(finished.folder, tmp_path / "dial")
    config = small.settings(finished.recipe, folder, "neurons.safety=9", "tune.epochs=2")
    screen = small.carry_on(config)
    assert small.kept(screen) == {"answers", "attribute", "base"}
    best = best_state(config.tune, folder / "select", folder / "train")
    assert best.best_P.shape == (9 + 10,)
