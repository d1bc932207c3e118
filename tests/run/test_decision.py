"""A whole run as it is unless told otherwise: openings, slopes of cells, contrastive neurons."""

import json
import shutil
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from nt_jax.attribution.store import load_neurons
from nt_jax.data.training import read_records
from nt_jax.generate.chat import open_model
from nt_jax.run import contrast
from nt_jax.run.contrast import chosen_slopes, scores_of
from nt_jax.train import outer, tune
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import CELLS, OWN, cell_rows
from nt_jax.train.own_answers import opening_ids
from nt_jax.train.tuning_data import tuning_data
from tests import tiny
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")


def settings(recipe, folder, *words: str):
    return small.settings(recipe, folder, *small.DECISION, *words)


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory):
    """Its recipe, its folder and what it said."""
    folder = tmp_path_factory.mktemp("runs") / "decision"
    with mock.patch.object(outer, "cell_slopes", side_effect=AssertionError("measured twice")):
        screen = small.carry_on(settings(recipe, folder))
    return SimpleNamespace(recipe=recipe, folder=folder, screen=screen)


@pytest.fixture(scope="module")
def slopes(made) -> CellSlopes:
    return CellSlopes.load(made.folder / "attribute" / "slopes.npz")


def facts(path):
    return json.loads(path.read_text())


def test_it_comes_to_its_report_and_says_what_was_compared(made):
    assert all((made.folder / name / "DONE").is_file() for name in small.STAGES)
    assert "8 prompts of four cells   score contrastive, 96 neurons" in made.screen
    assert "safety targets: opening: \"I'm sorry, but I can't\"" in made.screen
    text = (made.folder / "select" / "attribution.md").read_text()
    assert "score: contrastive\n" in text and "Two halves of them share" in text
    for name in CELLS:
        assert f"| {name.replace('_', ' ')} | 2 |" in text
    summary = facts(made.folder / "select" / "summary.json")
    assert summary["score"] == {"safety": "contrastive", "utility": "contrastive"}


def test_slopes_are_those_of_the_cells_in_every_neuron(made, slopes):
    for name in (*CELLS, OWN):
        rows = slopes.cells[name]
        assert rows.shape == (8 if name == OWN else 2, tiny.LAYERS * tiny.NEURONS)
        assert np.isfinite(rows).all() and np.abs(rows).max(axis=1).min() > 0
    config = settings(made.recipe, made.folder)
    model, parts = open_model(str(config.model.source), "float32"), read_records(config.data)
    data = tuning_data(model, parts, config.tune, config.data, folder=made.folder / "answers")
    cells = cell_rows(data.pools, 2)
    assert facts(made.folder / "attribute" / "examples.json")["cells"] == {
        name: len(cells[name]) for name in CELLS
    }
    (opening,) = opening_ids(model, [config.tune.opening])
    assert all(ids == opening for name in CELLS for _, ids in cells[name])


def test_neurons_are_the_highest_and_the_lowest_of_one_score(made, slopes):
    score_P = scores_of(slopes)
    neurons, rows = load_neurons(made.folder / "select" / "neurons.csv")
    flat = (np.asarray(neurons.layer_P) * tiny.NEURONS + np.asarray(neurons.index_P)).tolist()
    order = np.argsort(-score_P, kind="stable").tolist()
    assert flat[:14] == order[:14] and flat[14:] == order[::-1][:10]
    assert score_P[flat[0]] > 0 > score_P[flat[14]]
    assert [row["set"] for row in rows] == ["safety"] * 14 + ["utility"] * 10


def test_two_halves_of_the_prompts_share_none(monkeypatch):
    """Each own answer has two rows, its likelihood's and its drift's: both go to one half."""
    seen = []
    monkeypatch.setattr(contrast, "scores_of", lambda half: seen.append(half.cells) or np.ones(40))
    rows = {name: np.arange(5.0)[:, None] for name in CELLS}
    own = np.concatenate([rows[CELLS[0]], rows[CELLS[0]]])
    contrast.split_half(CellSlopes(rows | {OWN: own}))
    one, other = ({name: {*map(float, part[:, 0])} for name, part in half.items()} for half in seen)
    assert all(
        one[name] == {0.0, 2.0, 4.0} and other[name] == {1.0, 3.0} for name in rows | {OWN: 0}
    )
    assert [len(half[OWN]) for half in seen] == [6, 4]


def test_layers_below_the_first_are_not_measured(made, tmp_path):
    folder = tmp_path / "upper"
    folder.mkdir()
    shutil.copytree(made.folder / "answers", folder / "answers")
    shutil.copy(made.folder / "run.json", folder)
    small.carry_on(settings(made.recipe, folder, "neurons.first_layer=1"), until="select")
    upper = CellSlopes.load(folder / "attribute" / "slopes.npz")
    whole = CellSlopes.load(made.folder / "attribute" / "slopes.npz")
    for name, rows in whole.cells.items():
        np.testing.assert_allclose(upper.cells[name], rows[:, tiny.NEURONS :], rtol=1e-3, atol=1e-6)
    neurons, _ = load_neurons(folder / "select" / "neurons.csv")
    assert set(neurons.layer_P.tolist()) == {1}
    found = chosen_slopes(folder / "attribute", neurons, 1, tiny.NEURONS)
    assert found is not None
    index_P = np.asarray(neurons.index_P)
    np.testing.assert_array_equal(found.cells[OWN], upper.cells[OWN][:, index_P])


def test_without_measured_slopes_there_are_none_to_take(finished):
    neurons, _ = load_neurons(finished.folder / "select" / "neurons.csv")
    assert chosen_slopes(finished.folder / "attribute", neurons, 0, tiny.NEURONS) is None


def test_a_run_that_is_interrupted_anywhere_ends_with_the_same_bytes(made, tmp_path):
    folder = tmp_path / "cut"
    config, save, saved = settings(made.recipe, folder), tune.save, []
    with (
        mock.patch.object(contrast, "save_set", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        small.carry_on(config, until="attribute")
    assert (folder / ".attribute.tmp" / "slopes.npz").exists()

    def save_and_stop(to, state):
        save(to, state)
        saved.append(int(state.epoch))
        raise KeyboardInterrupt

    measured = mock.Mock(side_effect=AssertionError("slopes were measured again"))
    with mock.patch.object(contrast, "cell_slopes", measured):
        with mock.patch.object(tune, "save", save_and_stop), pytest.raises(KeyboardInterrupt):
            small.carry_on(config, until="train")
        small.carry_on(config, until="train")
    assert saved == [1]
    for stage in ("answers", "attribute", "select", "train"):
        whole, again = (small.contents(at / stage) for at in (made.folder, folder))
        # The names of Orbax's files are random, and DONE has them.
        names = {name for name in whole if not name.startswith("orbax") and name != "DONE"}
        assert {name: again[name] for name in names} == {name: whole[name] for name in names}
