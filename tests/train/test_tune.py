"""The outer loop's bookkeeping: which factors are kept, when it stops, what a kill leaves."""

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from unittest import mock

import jax
import numpy as np
import pytest

from nt_jax.config.schema import TuneConfig
from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DivergedError
from nt_jax.generate.chat import open_model
from nt_jax.run.stages import best_state
from nt_jax.train import outer, strength, tune
from nt_jax.train.batcher import make_batcher
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import CELLS, HARMFUL, OWN
from nt_jax.train.maml import MetaOptions
from nt_jax.train.pools import Pair, make_pools
from nt_jax.train.tuning_data import TuningData
from nt_jax.train.validate import HARMLESS, Look, Validation
from tests import tiny
from tests.run import small
from tests.train.test_maml import NEURONS

grouped = pytest.mark.xdist_group("run")  # the worker that has made the finished run
NONE = {HARMLESS: np.zeros(150)}


def look(harmful: float) -> Look:
    """What refuses so many harmful requests, and harmless ones and perplexity as before."""
    return Look({"refusal_attack": harmful, "refusal_direct": 1.0, "perplexity": 9.0}, NONE)


BASE = look(0.1)


def settings(finished, folder, *words: str):
    """Every epoch is validated, by a script."""
    plain = ["tune.validate_every=1", "tune.separation_every=0"]
    return small.settings(finished.recipe, folder, *plain, *words)


@contextlib.contextmanager
def scripted(scores: list[float]) -> Iterator[mock.Mock]:
    """Validations that score so one after another, of epochs and then of strengths."""
    asked = mock.Mock(side_effect=[look(value) for value in scores])
    with (
        mock.patch.object(tune, "look_at", return_value=BASE),
        mock.patch.object(tune, "validate", asked),
        mock.patch.object(strength, "validate", asked),
    ):
        yield asked


def tuned(finished, folder, scores: list[float], *words: str):
    """(the last state, metrics.jsonl) of a run whose validations are scripted."""
    shutil.copytree(finished.folder, folder, ignore=shutil.ignore_patterns("train"))
    config = settings(finished, folder, *words)
    with scripted(scores) as asked:
        small.carry_on(config, until="train")
    assert asked.call_count == len(scores)  # no more and no fewer validations than expected
    lines = (folder / "train" / "metrics.jsonl").read_text().splitlines()
    return best_state(config.tune, folder / "select", folder / "train"), [*map(json.loads, lines)]


@grouped
def test_the_factors_of_the_best_validation_are_kept(finished, tmp_path):
    plain = ["tune.strengths=[]", "tune.average=0"]
    state, rows = tuned(finished, tmp_path / "a", [0.2, 0.5, 0.3, 0.5], *plain)
    assert (int(state.best_epoch), float(state.best_score), int(state.waited)) == (2, 0.5, 2)
    assert [row.get("score") for row in rows] == [None, 0.2, 0.5, 0.3, 0.5]
    assert not np.allclose(state.best_P, state.theta_P)
    last, _ = tuned(finished, tmp_path / "b", [0.2, 0.5, 0.3, 0.6], *plain)
    np.testing.assert_array_equal(last.theta_P, state.theta_P)  # the same run, another choice
    np.testing.assert_array_equal(last.best_P, last.theta_P)


@grouped
def test_patience_counts_validations_without_a_new_best(finished, tmp_path):
    words = ["tune.patience=2", "tune.strengths=[]", "tune.epochs=9"]
    state, rows = tuned(finished, tmp_path / "a", [0.5, 0.4, 0.6, 0.6, 0.2], *words)
    assert (int(state.epoch), int(state.best_epoch), int(state.waited)) == (5, 3, 2)
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4, 5]


@grouped
def test_a_run_killed_when_its_patience_ended_does_not_go_on(finished, tmp_path):
    folder = tmp_path / "a"
    words = ["tune.patience=1", "tune.strengths=[]", "tune.epochs=9"]
    dead = mock.patch.object(tune, "calibrate", side_effect=KeyboardInterrupt)
    with dead, pytest.raises(KeyboardInterrupt):
        tuned(finished, folder, [0.5, 0.4], *words)
    config = settings(finished, folder, *words)
    with scripted([]):
        small.carry_on(config, until="train")
    assert int(best_state(config.tune, folder / "select", folder / "train").epoch) == 2


@grouped
def test_a_tie_is_broken_after_a_kill_as_without_one(finished, tmp_path):
    """0.7 has no exact float32, which is what a checkpoint keeps of it."""
    words, folder = ["tune.epochs=1", "tune.strengths=[0.5]"], tmp_path / "cut"
    whole, _ = tuned(finished, tmp_path / "whole", [0.7, 0.7], *words)
    dead = mock.patch.object(tune, "calibrate", side_effect=KeyboardInterrupt)
    with dead, pytest.raises(KeyboardInterrupt):
        tuned(finished, folder, [0.7], *words)
    config = settings(finished, folder, *words)
    with scripted([0.7]):
        small.carry_on(config, until="train")
    resumed = best_state(config.tune, folder / "select", folder / "train")
    np.testing.assert_array_equal(resumed.best_P, whole.best_P)
    np.testing.assert_array_equal(whole.best_P, whole.average_P)  # the first of the two is kept


@grouped
def test_a_better_strength_replaces_the_best_epoch_within_the_bounds(finished, tmp_path):
    words = ["tune.strengths=[0.5,1.2,9]", "tune.average=0", "tune.factor_max=1.7"]
    scores = [0.2, 0.5, 0.3, 0.3, 0.6, 0.7]  # four epochs, 1.2 and 9
    state, _ = tuned(finished, tmp_path / "a", scores, *words)
    assert (int(state.best_epoch), float(state.best_score)) == (4, np.float32(0.7))
    expected = np.clip(1 + 9 * (np.asarray(state.average_P) - 1), 0, 1.7)
    np.testing.assert_allclose(state.best_P, expected, rtol=1e-6)
    assert {0, np.float32(1.7)} <= set(np.asarray(state.best_P))
    kept, _ = tuned(finished, tmp_path / "b", [0.2, 0.8, 0.3, 0.3, 0.6, 0.7], *words)
    assert int(kept.best_epoch) == 2
    log = (tmp_path / "a" / "train" / "strengths.jsonl").read_text().splitlines()
    assert [json.loads(line)["strength"] for line in log] == [1.2, 9]


def test_the_outer_step_falls_to_about_a_tenth():
    options = MetaOptions(meta_lr=0.2)
    rates = [tune.at_epoch(options, epoch, 40).meta_lr for epoch in range(40)]
    assert rates[0] == pytest.approx(0.2) and rates[-1] == pytest.approx(0.02, rel=0.02)
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_running_mean_of_equal_factors_is_their_value(decay):
    average_P = np.zeros(3, np.float32)
    for epoch in range(300):
        average_P = tune.running_mean(average_P, np.full(3, 2, np.float32), epoch, decay)
    np.testing.assert_allclose(average_P, 2, rtol=0.07)
    first_P = tune.running_mean(np.zeros(3), np.ones(3), 0, 0.99)
    np.testing.assert_allclose(first_P, 0.9)  # the start washes out at once


def test_the_constants_of_a_recipe_reach_algorithm_1():
    config = TuneConfig(order=1, inner_steps=3, kl_weight=0.5, utility_sign="descent", outer="adam")
    options = tune.meta_options(config, True)
    assert (options.order, options.inner_steps, options.with_kl) == (1, 3, True)
    assert options.utility_sign == "descent" and options.remat
    assert not tune.meta_options(TuneConfig(kl_weight=0), False).with_kl
    assert math.isclose(options.kl_weight, 0.5) and options.with_margin
    assert not tune.meta_options(TuneConfig(margin_weight=0), False).with_margin


# --- without validation --------------------------------------------------------------------------


@grouped
def test_without_validation_answers_nothing_is_generated_and_the_last_factors_are_kept(
    finished, tmp_path
):
    words = ["tune.validation_answers=0", "tune.validate_every=1"]
    state, rows = tuned(finished, tmp_path / "a", [], *words)
    assert (int(state.epoch), int(state.best_epoch)) == (small.EPOCHS, small.EPOCHS)
    np.testing.assert_array_equal(state.best_P, state.average_P)
    assert [row["epoch"] for row in rows] == [*range(1, small.EPOCHS + 1)]
    assert not any("score" in row for row in rows)
    assert not (tmp_path / "a" / "train" / "strengths.jsonl").exists()


# --- by regression -------------------------------------------------------------------------------

REGRESSION = (
    "tune.outer=regression", "tune.metric_requests=8", "tune.meta_lr=0.2", "tune.average=0",
    "tune.schedule=constant", "tune.epochs=2", "tune.init_safety=1", "tune.init_utility=1",
    "tune.validate_every=0",
)  # fmt: skip


def regressed(finished, folder, *words: str, levels: list | None = None):
    """(the last state, the decisions and slopes of each epoch) of a run to the end of training."""
    config, seen = small.settings(finished.recipe, folder, *REGRESSION, *words), []
    before = outer.direction

    def record(slopes, *rest, asked):
        made = before(slopes, *rest, asked=asked)
        seen.append(slopes)
        if levels is not None:
            levels.append((asked, made[1]["level"]))
        return made

    with mock.patch.object(outer, "direction", record):
        small.carry_on(config, until="train")
    return best_state(config.tune, folder / "select", folder / "train"), seen


@grouped
def test_an_epochs_step_is_as_long_as_was_asked(finished, tmp_path):
    words = ("tune.inner_steps=0", "tune.strengths=[]")
    state, (first, second) = regressed(finished, tmp_path / "a", *words)
    train = tmp_path / "a" / "train"
    slopes = CellSlopes.load(train / "slopes.npz", (OWN,))
    assert {name: rows.shape for name, rows in slopes.cells.items()} == {OWN: (8, small.NEURONS)}
    assert {first.cells[name].shape for name in CELLS} == {(2, small.NEURONS)}
    rows = [json.loads(line) for line in (train / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert all({"loss", "safety_loss", "utility_loss"} <= row.keys() for row in rows[1:])
    assert int(state.epoch) == 2
    lm = open_model(str(finished.model)).lm
    metric = outer.preconditioner_of(slopes, TuneConfig(), lm)
    way_P, _ = outer.direction(first, metric, 0.2, TuneConfig(safety_weight=0.5), lm.mesh)
    step_P = np.asarray(metric.divide(way_P))
    assert np.linalg.norm(step_P) == pytest.approx(0.2, rel=0.01)
    assert any(not np.allclose(first.values[n], second.values[n], atol=1e-3) for n in CELLS)


@grouped
def test_the_slopes_of_an_epoch_are_those_at_the_adapted_factors(finished, tmp_path):
    _, (without, _) = regressed(finished, tmp_path / "a", "tune.inner_steps=0", "tune.strengths=[]")
    _, (adapted, _) = regressed(finished, tmp_path / "b", "tune.inner_lr=30", "tune.strengths=[]")
    assert not np.allclose(adapted.values[HARMFUL], without.values[HARMFUL], atol=1e-4)


@grouped
def test_a_run_by_regression_resumes_byte_for_byte(finished, tmp_path):
    levels = []
    whole, _ = regressed(finished, tmp_path / "whole", levels=levels)
    save = tune.save

    def save_and_stop(folder, state):
        save(folder, state)
        raise KeyboardInterrupt

    with mock.patch.object(tune, "save", save_and_stop), pytest.raises(KeyboardInterrupt):
        regressed(finished, tmp_path / "cut")
    measured = mock.Mock(side_effect=AssertionError("slopes were measured again"))
    with mock.patch.object(outer, "cell_slopes", measured):
        resumed, seen = regressed(finished, tmp_path / "cut", levels=levels)
    assert len(seen) == 1  # of two epochs
    first, second, again = levels
    assert first[0] == -np.inf and second[0] == first[1]
    assert again == second  # what was asked for before is known after a stop
    for one, other in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    made, again = (small.contents(tmp_path / name / "train") for name in ("whole", "cut"))
    plain = {name for name in made if "orbax" not in name and name != "DONE"}
    assert {"metrics.jsonl", "strengths.jsonl", "slopes.npz", "neurons.csv"} <= plain
    assert {name: again[name] for name in plain} == {name: made[name] for name in plain}


@grouped
def test_a_step_that_is_shortened_is_said(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(outer, "share_that_holds", lambda *_: 0.25)
    config = small.settings(finished.recipe, tmp_path / "run", *REGRESSION)
    said = []
    monkeypatch.setattr(
        tune, "progress", lambda *_: nullcontext(lambda _, note="": said.append(note))
    )
    small.carry_on(config, until="train")
    rows = (tmp_path / "run" / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["share"] for row in rows[1:]] == [0.25, 0.25]
    assert len(said) == 2 and all("25% of the step" in note for note in said)


@pytest.mark.parametrize("given", [True, False])
def test_slopes_that_are_given_are_not_measured(tmp_path, monkeypatch, given):
    """And where the cells do not differ, nothing tells harm apart: that is said."""
    same = np.ones((3, 7), np.float32)
    slopes = CellSlopes(dict.fromkeys((*CELLS, OWN), same), dict.fromkeys(CELLS, np.zeros(3)))
    measured = mock.Mock(return_value=slopes)
    monkeypatch.setattr(outer, "cell_slopes", measured)
    monkeypatch.setattr(outer, "measured_cells", mock.Mock(return_value=slopes))
    chat, rows = open_model(str(tiny.checkpoint("smollm2"))), [Pair("a b", [5]), Pair("c", [6])]
    around = [AttackTemplate(str(n), f"{n} {{request}}") for n in range(2)]
    pools = make_pools(rows, around, rows, [], 0.5)
    config = TuneConfig(separation_every=0, validation_answers=0)
    with pytest.raises(DivergedError, match="do not differ: nothing tells them apart"):
        tune.tune(
            chat, NEURONS, TuningData(pools, Validation({}, {})), config, folder=tmp_path,
            slopes=slopes if given else None,
        )  # fmt: skip
    assert measured.call_count == (not given)


def test_what_was_kept_of_earlier_last_factors_is_no_rival(tmp_path, monkeypatch):
    """A tuning that had ended, and is gone on with for more epochs, keeps what those bring."""
    chat, rows = open_model(str(tiny.checkpoint("smollm2"))), [Pair("a b", [5]), Pair("c", [6])]
    around, seen = [AttackTemplate(str(n), f"{n} {{request}}") for n in range(2)], []
    config = TuneConfig(outer="adam", epochs=3, separation_every=0, lifts=())
    state = tune.fresh_state(config, NEURONS)
    ended = dataclasses.replace(state, epoch=3, best_epoch=2, best_score=0.9)
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"epoch": {n}}}\n' for n in range(4)))
    monkeypatch.setattr(tune, "restore", lambda *_: ended)
    monkeypatch.setattr(tune, "untuned", lambda *_: Look({}, {}))
    monkeypatch.setattr(tune, "calibrate", lambda *given: seen.append(given[5]) or given[5])
    data = TuningData(make_pools(rows, around, rows, [], 0.5), Validation({}, {}))
    tune.tune(chat, NEURONS, data, config, folder=tmp_path)
    assert [(int(s.best_epoch), float(s.best_score)) for s in seen] == [(0, -math.inf)]


@pytest.mark.parametrize("inner_steps", [0, 1])
def test_without_an_inner_loop_nothing_is_kept_apart_for_it(inner_steps):
    model = open_model(str(tiny.checkpoint("smollm2")))
    rows = [Pair(f"request {n}", [n + 1]) for n in range(8)]
    around = [AttackTemplate(str(n), f"{n} {{request}}") for n in range(4)]
    pools = make_pools(rows, around, rows, [], 0.25)
    config = TuneConfig(inner_steps=inner_steps, outer="adam")
    batcher, _ = make_batcher(model.lm, tiny.LAYERS, model.encode, pools, config, seed=0)
    pool, _, _ = batcher.sets["global_safety"]
    assert (len(pool.direct), len(pool.templates)) == ((8, 4) if inner_steps == 0 else (6, 3))


@pytest.mark.parametrize(
    ("inner_steps", "outer", "made"),
    [(1, "adam", "lg"), (0, "adam", "g"), (1, "regression", "l"), (0, "regression", "")],
)
def test_batches_are_made_of_the_sets_that_are_read(inner_steps, outer, made):
    model = open_model(str(tiny.checkpoint("smollm2")))
    rows = [Pair(f"request {n}", [n + 1]) for n in range(8)]
    around = [AttackTemplate(str(n), f"{n} {{request}}") for n in range(4)]
    config = TuneConfig(inner_steps=inner_steps, outer=outer)
    pools = make_pools(rows, around, rows, [], 0.25)
    batcher, _ = make_batcher(model.lm, tiny.LAYERS, model.encode, pools, config, seed=0)
    batch = batcher.batch(0)
    found = {name[0] for name, rows in vars(batch).items() if rows is not None}
    assert found == {*made} and bool(batcher.plan()) == bool(made)


@pytest.mark.parametrize(("cpu", "beside", "several"), [(0, True, 1), (0, False, 0), (1, True, 0)])
def test_only_factors_on_an_accelerator_take_sequences_side_by_side(
    cpu, beside, several, monkeypatch
):
    """An adapter's sequences would hold a gradient of all adapted weights each."""
    monkeypatch.setattr("nt_jax.train.batcher.on_cpu", lambda mesh: bool(cpu))
    model = open_model(str(tiny.checkpoint("smollm2")))
    rows = [Pair("request " + "long " * 40 + str(n), [n + 1]) for n in range(8)]
    pools = make_pools(
        rows, [AttackTemplate(str(n), f"{n} {{request}}") for n in range(4)], rows, [], 0.25
    )
    config = TuneConfig(global_batch=6, sequence_tokens=16, outer="adam")
    given = (model.encode, pools, config, 0, beside)
    batcher, remat = make_batcher(model.lm, tiny.LAYERS, *given)
    sides = [shape.side for shape in batcher.shapes.values()]
    assert (max(sides) > 1, remat) == (bool(several), bool(several))


def test_a_tuning_that_diverges_names_the_folder_of_its_factors_where_that_stays(
    tmp_path, monkeypatch
):
    """nt.tune without a folder leaves none."""
    row, nan_P = {"epoch": 3, "loss": math.nan}, np.full(2, np.nan, np.float32)

    def learn(*given):
        tune._stop_if_diverged(row, nan_P, given[7], 0)

    monkeypatch.setattr(tune, "learn", learn)
    chat, rows = open_model(str(tiny.checkpoint("smollm2"))), [Pair("a b", [5]), Pair("c", [6])]
    around = [AttackTemplate("0", "0 {request}"), AttackTemplate("1", "1 {request}")]
    data = TuningData(make_pools(rows, around, rows, [], 0.5), Validation({}, {}))
    for folder, told in ((tmp_path, True), (None, False)):
        with pytest.raises(DivergedError, match="diverged at epoch 3") as error:
            tune.tune(chat, NEURONS, data, TuneConfig(outer="adam"), folder=folder)
        assert ("The factors of epoch 2 are in " in str(error.value)) == told
