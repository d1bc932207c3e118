"""Tuning as a library call: the factors of a run, and no file left behind."""

import dataclasses

import numpy as np
import pytest

from nt_jax.attribution.store import load_neurons
from nt_jax.data.training import read_records
from nt_jax.generate.chat import open_model
from nt_jax.run.stages import best_state
from nt_jax.train.own_answers import FILE
from nt_jax.train.tune import tune
from nt_jax.train.tuning_data import tuning_data
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")


def test_the_library_learns_the_factors_of_the_run_and_leaves_no_file(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    config = small.settings(finished.recipe, tmp_path / "run")
    neurons, _ = load_neurons(finished.folder / "select" / "neurons.csv")
    model, parts = open_model(str(finished.model), "float32"), read_records(config.data)
    with small.small_programs():
        data = tuning_data(model, parts, config.tune, config.data)
        found = tune(model, neurons, data, config.tune, seed=config.seed)
    kept = best_state(config.tune, finished.folder / "select", finished.folder / "train")
    np.testing.assert_array_equal(found.theta_P, kept.best_P)
    assert found.neurons is neurons and list(tmp_path.iterdir()) == []


def test_own_answers_are_read_where_they_lie_and_written_where_they_do_not(finished, tmp_path):
    config = small.settings(finished.recipe, tmp_path / "run")
    model, parts = open_model(str(finished.model), "float32"), read_records(config.data)
    written = tuning_data(model, parts, config.tune, config.data, folder=tmp_path)
    assert (tmp_path / FILE).read_bytes() == (finished.folder / "answers" / FILE).read_bytes()
    silent = dataclasses.replace(model, weights=lambda: pytest.fail("it was asked again"))
    assert tuning_data(silent, parts, config.tune, config.data, folder=tmp_path) == written
