"""The lift: as short as can be, the same for all prompts, and as high as validation allows."""

import dataclasses
import json
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.config.schema import TuneConfig
from nt_jax.errors import DivergedError
from nt_jax.run.stages import best_state
from nt_jax.train import level, tune
from nt_jax.train.cells import CELLS
from nt_jax.train.level import RIDGE, Lift, lift_of, lifted, read_lifts, unlifted
from nt_jax.train.outer import divided
from nt_jax.train.preconditioner import make_preconditioner
from nt_jax.train.slopes import CellSlopes
from nt_jax.train.tune import fresh_state
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.validate import HARMLESS, Look
from tests.run import small
from tests.train.test_maml import NEURONS, THETA, model
from tests.train.test_tune import REGRESSION, grouped
from tests.train.test_validate import verdict

# In the upper of two layers alone, which tuning then counts from 0.
UPPER = dataclasses.replace(NEURONS, layer_P=np.ones_like(NEURONS.layer_P))
LIFTS = (0.6, -0.5, 1.5, 0.0, 0.9, 0.3, 1.2)  # as they come: halving puts them in order
LIFT = np.linspace(0.01, 0.02, len(THETA)).astype(np.float32)
BASE = Look(
    {"refusal_attack": 0.4, "refusal_direct": 0.4, "perplexity": 9.0}, {HARMLESS: verdict(150, 0)}
)


def drawn(rows: int = 3, neurons: int = 40) -> CellSlopes:
    """Slopes of decisions that all rise with the sum of the factors, each in a way of its own."""
    draw = np.random.default_rng(0)
    cells = {n: (1 + draw.normal(size=(rows, neurons))).astype(np.float32) for n in CELLS}
    return CellSlopes(cells, {name: np.zeros(rows) for name in CELLS})


def test_the_lift_is_the_shortest_change_by_which_all_gain_alike(x64):
    slopes, draw = drawn(), np.random.default_rng(1)
    own_MP = draw.normal(size=(20, 40))
    slope_MP = np.concatenate([slopes.cells[name] for name in CELLS]).astype(np.float64)
    free_MP = np.asarray(divided(make_preconditioner(own_MP, 1e-3), jnp.asarray(slope_MP)))
    lift_P = lift_of(slopes, free_MP)
    # By hand, with the norm as one dense matrix, and as the minimum of what is minimised.
    fisher_PP = own_MP.T @ own_MP
    norm_PP = np.eye(40) + fisher_PP / (1e-3 * np.trace(fisher_PP))
    kernel_MM = slope_MP @ np.linalg.solve(norm_PP, slope_MP.T)
    ridge = RIDGE * np.trace(kernel_MM) / 12
    system_PP = slope_MP.T @ slope_MP / ridge + norm_PP
    least_P = np.linalg.solve(system_PP, slope_MP.T @ np.ones(12) / ridge)
    np.testing.assert_allclose(lift_P, least_P / (slope_MP @ least_P).mean(), rtol=1e-5)
    moved_M = slope_MP @ lift_P
    assert moved_M.mean() == pytest.approx(1) and np.abs(moved_M - 1).max() < 0.1
    plain_P = slope_MP.mean(axis=0)  # a change that is as good in the mean, and longer
    plain_P /= (slope_MP @ plain_P).mean()
    assert lift_P @ norm_PP @ lift_P < plain_P @ norm_PP @ plain_P
    assert np.abs(slope_MP @ plain_P - 1).max() > 0.3


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_slopes_of_nothing_lift_nothing(value):
    none = CellSlopes({name: np.full((2, 5), value, np.float32) for name in CELLS})
    with pytest.raises(DivergedError, match=r"slopes are 0, or not finite.*tune\.lifts=\[\]"):
        lift_of(none, np.full((8, 5), value))


def look(lift: float, limit: float, rises_from: float) -> Look:
    """Refusals of harm rise with the lift, from below the untuned model's; past the limit others"""
    rate = 0.4 + 0.2 * (lift - rises_from)
    rates = {"refusal_attack": rate, "refusal_direct": rate + 0.1, "perplexity": 9.0}
    return Look(rates, {HARMLESS: verdict(150, 60 if lift > limit else 0)})


def searched(tmp_path, monkeypatch, limit: float, rises_from: float = -0.5, **settings):
    """(the state afterwards, the line of the kept lift, the lifts that were looked at)."""
    looked, config = [], TuneConfig(**{"lifts": LIFTS, **settings})

    def validate(chat, judge, prompts, scale_LF):
        now_P = np.asarray(scale_LF)[UPPER.layer_P, UPPER.index_P]
        looked.append(round(float((now_P[0] - THETA[0]) / LIFT[0]), 3))
        return look(looked[-1], limit, rises_from)

    def measured(chat, tuned, pools, config, metric, state):
        return Lift(int(state.epoch), np.asarray(state.average_P), LIFT)

    monkeypatch.setattr(level, "validate", validate)
    monkeypatch.setattr(level, "measured_lift", measured)
    start = fresh_state(config, UPPER)
    start = dataclasses.replace(start, average_P=jnp.asarray(THETA, jnp.float32), epoch=3)
    state = unlifted(start, tmp_path)
    chat, data = SimpleNamespace(lm=model()), SimpleNamespace(pools=None, validation=None)
    tuned = TunedLayers.of(chat.lm, UPPER)
    rest = (config, None, None, state, BASE, tmp_path)
    state, kept = lifted(chat, tuned, data, *rest)
    return state, kept, looked


@pytest.mark.parametrize("limit", sorted(LIFTS))
def test_the_highest_within_the_limits_is_found_in_three_looks_of_seven(
    tmp_path, monkeypatch, limit
):
    state, kept, looked = searched(tmp_path, monkeypatch, limit)
    assert len(looked) == len(set(looked)) == 3 and looked[0] == 0.6 and limit in looked
    np.testing.assert_allclose(state.average_P, THETA + limit * LIFT, rtol=1e-5)
    assert kept["lift"] == limit and kept["score"] == pytest.approx(0.4 + 0.2 * (limit + 0.5))
    rows = read_lifts(tmp_path)
    assert [row["lift"] for row in rows] == looked
    assert [row["lift"] for row in rows if row.get("kept")] == [limit]


def test_where_refusals_of_harm_fell_too_far_the_search_goes_up(tmp_path, monkeypatch):
    """Fewer refusals than untuned below 1.2: that is no reason to go lower still."""
    _, kept, looked = searched(tmp_path, monkeypatch, limit=9, rises_from=1.1)
    assert looked == [0.6, 1.2, 1.5] and kept["lift"] == 1.5


def test_where_nothing_lies_within_the_limits_the_nearest_is_kept(tmp_path, monkeypatch):
    _, kept, looked = searched(tmp_path, monkeypatch, limit=-9)
    assert looked == [0.6, 0.0, -0.5] and kept["score"] < -1
    assert kept["lift"] == 0.6  # all are as far from them: the lesser of two, in thousandths


def test_a_lift_starts_from_the_unlifted_factors_however_often(tmp_path, monkeypatch):
    first, *_ = searched(tmp_path, monkeypatch, 0.9)
    config = TuneConfig(lifts=LIFTS)
    after = dataclasses.replace(fresh_state(config, UPPER), average_P=first.average_P, epoch=3)
    np.testing.assert_array_equal(unlifted(after, tmp_path).average_P, THETA.astype(np.float32))
    later = dataclasses.replace(after, epoch=4)  # an epoch further it is another lift
    np.testing.assert_array_equal(unlifted(later, tmp_path).average_P, first.average_P)
    again, *_ = searched(tmp_path, monkeypatch, 0.9)
    np.testing.assert_array_equal(again.average_P, first.average_P)


def test_lifted_factors_keep_to_their_bounds(tmp_path, monkeypatch):
    state, *_ = searched(tmp_path, monkeypatch, limit=1.5, factor_max=float(THETA.max()))
    assert np.max(state.average_P) == np.float32(THETA.max())
    assert np.min(state.average_P) > np.min(THETA)


@grouped
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_lifted_run_resumes_byte_for_byte(finished, tmp_path, stop):
    """Stopped after its first epoch, its last one, and when all is saved but the stage's mark."""
    words = (*REGRESSION, "tune.lifts=[0.25,0.5]", "tune.strengths=[0.5,1]")

    def trained(folder, save=tune.save):
        config = small.settings(finished.recipe, folder, *words)
        with mock.patch.object(tune, "save", save):
            small.carry_on(config, until="train")
        return best_state(config.tune, folder / "select", folder / "train")

    whole, calls, save = trained(tmp_path / "whole"), [], tune.save

    def save_and_stop(folder, state):
        save(folder, state)
        calls.append(state)
        if len(calls) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", save=save_and_stop)
    resumed = trained(tmp_path / "cut")
    for one, other in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(one, other)
    train = tmp_path / "whole" / "train"
    kept = next(row for row in read_lifts(train) if row.get("kept"))
    lift = Lift.load(train, 2)
    np.testing.assert_array_equal(whole.average_P, lift.by(kept["lift"], TuneConfig()))
    np.testing.assert_array_equal(lift.last_P, np.asarray(whole.theta_P))
    assert np.abs(lift.lift_P).max() > 0
    log = [json.loads(line) for line in (train / "strengths.jsonl").read_text().splitlines()]
    assert {row["strength"]: row.get("lift") for row in log}[1.0] == kept["lift"]
    cut = (tmp_path / "cut" / "train" / "lifts.jsonl").read_bytes()
    assert cut == (train / "lifts.jsonl").read_bytes()
