"""The lifts: as short as can be, each of its side alone, and as high as validation allows."""

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
from nt_jax.train import validate as kinds
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import CELLS
from nt_jax.train.cells import NESTED as NESTED_CELLS
from nt_jax.train.level import (
    ATTACKED,
    BARE,
    NESTED,
    RIDGE,
    SIDES,
    Lift,
    lifted,
    lifts_of,
    nats_of,
    read_lifts,
    unlifted,
)
from nt_jax.train.outer import divided
from nt_jax.train.pools import make_pools
from nt_jax.train.preconditioner import make_preconditioner
from nt_jax.train.tune import fresh_state
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.validate import HARMLESS, IN_ATTACK, Look
from tests.run import small
from tests.train.test_cells import REFUSED, WRAPPED
from tests.train.test_maml import NEURONS, THETA, model
from tests.train.test_pools import TEMPLATES, UTILITY
from tests.train.test_tune import REGRESSION, grouped
from tests.train.test_validate import verdict

# In the upper of two layers alone, which tuning then counts from 0.
UPPER = dataclasses.replace(NEURONS, layer_P=np.ones_like(NEURONS.layer_P))
LIFTS = (0.6, -0.5, 1.5, 0.0, 0.9, 0.3, 1.2)  # as they come: halving puts them in order
BARE_LIFT = np.linspace(0.01, 0.02, len(THETA)).astype(np.float32)
FIRST = (0.6, 0.6, 0.0)  # their middle, on each side
ATTACKED_LIFT = np.linspace(0.03, 0.01, len(THETA)).astype(np.float32)
NESTED_LIFT = (0.01 + 0.01 * np.cos(np.arange(len(THETA)))).astype(np.float32)
MOVES = BARE_LIFT, ATTACKED_LIFT, NESTED_LIFT
BASE = Look(
    {"refusal_attack": 0.4, "refusal_direct": 0.4, "perplexity": 9.0},
    {kind: verdict(150, 0) for kind in (HARMLESS, IN_ATTACK, kinds.NESTED)},
)
JUDGE = SimpleNamespace(name="one", sha256="1")


def drawn(rows: int = 3, neurons: int = 40) -> CellSlopes:
    """Slopes of decisions that all rise with the sum of the factors, each in a way of its own."""
    draw, names = np.random.default_rng(0), (*CELLS, *NESTED_CELLS)
    cells = {n: (1 + draw.normal(size=(rows, neurons))).astype(np.float32) for n in names}
    return CellSlopes(cells, {name: np.zeros(rows) for name in names})


def test_lifts_are_the_shortest_changes_by_which_each_side_alone_gains(x64):
    slopes, draw = drawn(), np.random.default_rng(1)
    cells = {n: s[: 2 if n.startswith("nes") else 3] for n, s in slopes.cells.items()}
    slopes = CellSlopes(cells, {})  # sides need not be of one size
    own_MP = draw.normal(size=(20, 40))
    slope_MP = np.concatenate([*slopes.cells.values()]).astype(np.float64)
    begins = {BARE: "har", ATTACKED: "att", NESTED: "nes"}
    names = [name for name, rows in cells.items() for _ in rows]
    of = {side: np.array([n.startswith(b) for n in names]) for side, b in begins.items()}
    free_MP = np.asarray(divided(make_preconditioner(own_MP, 1e-3), jnp.asarray(slope_MP)))
    found = lifts_of(slopes, free_MP)
    # By hand: with the norm as one dense matrix, the minimum over the change and over what its
    # sides are to gain, where their means are given (Lagrange's conditions, solved at once).
    fisher_PP = own_MP.T @ own_MP
    norm_PP = np.eye(40) + fisher_PP / (1e-3 * np.trace(fisher_PP))
    ridge = RIDGE * np.trace(slope_MP @ np.linalg.solve(norm_PP, slope_MP.T)) / 16
    mine_MS = np.stack([*of.values()], axis=1).astype(float)
    mean_SP = mine_MS.T @ slope_MP / mine_MS.sum(axis=0)[:, None]
    for place, side in enumerate(SIDES):
        wanted_S = np.eye(3)[place]

        def least(aims_S):
            gained_P = slope_MP.T @ (mine_MS @ aims_S) / ridge
            return np.linalg.solve(norm_PP + slope_MP.T @ slope_MP / ridge, gained_P)

        means_SS = np.stack([mean_SP @ least(aim_S) for aim_S in np.eye(3)], axis=1)
        change_P = least(np.linalg.solve(means_SS, wanted_S))
        np.testing.assert_allclose(found[side], change_P, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(mean_SP @ found[side], wanted_S, atol=1e-6)
    moved_M = slope_MP @ found[NESTED]
    assert np.abs(moved_M - of[NESTED]).max() < 0.5  # each of a side about alike


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_slopes_of_nothing_lift_nothing(value):
    none = CellSlopes({name: np.full((2, 5), value, np.float32) for name in CELLS})
    with pytest.raises(DivergedError, match=r"slopes are 0, or not finite.*tune\.lifts=\[\]"):
        lifts_of(none, np.full((8, 5), value))


def test_a_side_without_prompts_has_no_lift():
    whole = drawn()
    cells = {n: whole.cells[n][: 0 if "attacked" in n else 3] for n in CELLS}  # none are nested
    slopes = CellSlopes(cells, {name: np.zeros(len(rows)) for name, rows in cells.items()})
    free_MP = np.concatenate([*cells.values()])
    lifts = {side: lift_P.any() for side, lift_P in lifts_of(slopes, free_MP).items()}
    assert lifts == {BARE: True, ATTACKED: False, NESTED: False}


def look(nats, limits, rises_from: float, more_direct: float = 0.1) -> Look:
    """Refusals of harm rise with the lifts, from below the untuned model's; past limits others."""
    bare, attacked = (0.4 + 0.2 * (each - rises_from) for each in nats[:2])
    rates = {"refusal_attack": attacked, "refusal_direct": bare + more_direct, "perplexity": 9.0}
    sides = zip((HARMLESS, IN_ATTACK, kinds.NESTED), nats, limits, strict=True)
    return Look(rates, {k: verdict(150, 60 if n > limit else 0) for k, n, limit in sides})


def lifted_within(tmp_path, monkeypatch, limits, rates=(-0.5, 0.1), moves=MOVES, **settings):
    """(the state afterwards, the line of the kept lifts, the lifts that were looked at)."""
    looked, config = [], TuneConfig(**{"lifts": LIFTS, "lift_from": 1.0, **settings})

    def validate(chat, judge, prompts, scale_LF):
        now_P = np.asarray(scale_LF)[UPPER.layer_P, UPPER.index_P] - THETA
        nats = np.linalg.lstsq(np.stack(MOVES).T, now_P, rcond=None)[0]
        looked.append(tuple(float(each) for each in np.round(nats, 3) + 0.0))
        return look(looked[-1], limits, *rates)

    def measured(chat, tuned, pools, config, metric, state, start_P):
        last_P = np.asarray(state.average_P)
        return Lift(int(state.epoch), last_P, start_P, *moves)

    monkeypatch.setattr(level, "validate", validate)
    monkeypatch.setattr(level, "measured_lift", measured)
    start = fresh_state(config, UPPER)
    start = dataclasses.replace(start, average_P=jnp.asarray(THETA, jnp.float32), epoch=3)
    state = unlifted(start, tmp_path)
    chat, data = SimpleNamespace(lm=model()), SimpleNamespace(pools=None, validation=None)
    tuned = TunedLayers.of(chat.lm, UPPER)
    rest = (config, JUDGE, None, state, start.theta_P, BASE, tmp_path)
    state, kept = lifted(chat, tuned, data, *rest)
    return state, kept, looked


@pytest.mark.parametrize(
    "limits", [(0.6, 0.6, 0.0), (-0.5, 1.5, -0.6), (0.9, 0.0, 0.9), (0.3, 1.2, -1.1)]
)
def test_the_best_within_the_limits_is_kept_and_written_down(tmp_path, monkeypatch, limits):
    state, kept, looked = lifted_within(tmp_path, monkeypatch, limits)
    above = (
        limits[1] == 1.5 or limits[2] == 0.9
    )  # the highest of a side: one beyond it is looked at
    assert looked[0] == FIRST and limits in looked and len(looked) <= 4 + above
    wanted_P = THETA + sum(nats * lift for nats, lift in zip(limits, MOVES, strict=True))
    np.testing.assert_allclose(state.average_P, wanted_P, rtol=1e-5)
    assert nats_of(kept) == limits
    least = min(0.4 + 0.2 * (limits[1] + 0.5), 0.5 + 0.2 * (limits[0] + 0.5))
    assert kept["score"] == pytest.approx(least)
    rows = read_lifts(tmp_path)
    assert [nats_of(row) for row in rows] == looked
    assert [nats_of(row) for row in rows if row.get("kept")] == [limits]


def test_without_a_nested_lift_that_side_stays(tmp_path, monkeypatch):
    """Nothing nested to measure it on: its nats are 0, not below the others."""
    moves = (BARE_LIFT, ATTACKED_LIFT, np.zeros_like(NESTED_LIFT))
    _, kept, looked = lifted_within(tmp_path, monkeypatch, (0.6, 1.5, 0.0), moves=moves)
    assert nats_of(kept) == (0.6, 1.5, 0.0) and len(looked) <= 5
    assert {row[NESTED] for row in read_lifts(tmp_path)} == {0.0}


def test_without_a_nested_lift_nested_prompts_go_with_the_attacked(tmp_path, monkeypatch):
    """Where validation nests and training cannot: what rises there lowers what moves it."""
    moves, rises = (BARE_LIFT, ATTACKED_LIFT, np.zeros_like(NESTED_LIFT)), level.past_rises

    def past_rises(row, asked, config):
        bare, attacked, _ = rises(row, asked, config)
        return bare, attacked, row["refusal_attack"] > 0.4 + 0.2 * (0.0 + 0.5) + 1e-9

    monkeypatch.setattr(level, "past_rises", past_rises)
    limits = (0.6, 1.5, 0.0)
    _, kept, _ = lifted_within(tmp_path, monkeypatch, limits, moves=moves)
    assert nats_of(kept) == (0.6, 0.0, 0.0)


@pytest.mark.parametrize("asks", [True, False])
def test_nested_prompts_are_measured_where_validation_asks_such(monkeypatch, asks):
    """What no look can see is not moved."""

    class MeasuredError(Exception):
        """What was asked to be measured."""

    def measured(model, rows, config, measure):
        raise MeasuredError([*rows])

    monkeypatch.setattr(level, "measured_cells", measured)
    validation = SimpleNamespace(prompts={kinds.NESTED: ["a prompt"] if asks else []})
    pools = make_pools(REFUSED, TEMPLATES, UTILITY, WRAPPED, 0.25)
    data, chat = SimpleNamespace(pools=pools, validation=validation), SimpleNamespace(lm=model())
    config, tuned = TuneConfig(lifts=LIFTS), TunedLayers.of(chat.lm, UPPER)
    state = fresh_state(config, UPPER)
    with pytest.raises(MeasuredError) as found:
        level.measured_lift(chat, tuned, data, config, None, state, THETA)
    asked = {*NESTED_CELLS} & {*found.value.args[0]}
    assert asked == ({*NESTED_CELLS} if asks else set())


def test_a_side_goes_up_to_its_limit_though_the_score_is_that_of_the_other(tmp_path, monkeypatch):
    """Direct requests are refused less often than attacked ones at whatever lift."""
    _, kept, looked = lifted_within(tmp_path, monkeypatch, (0.6, 1.5, -0.6), rates=(-0.5, -0.2))
    assert looked[0] == FIRST and kept["score"] == pytest.approx(0.42)
    assert nats_of(kept) == (0.6, 1.5, -0.6)


def test_a_stopped_search_goes_on_after_the_last_look_that_it_made(tmp_path, monkeypatch):
    limits = (0.3, 1.2, 0.6)
    first, kept, looked = lifted_within(tmp_path, monkeypatch, limits)
    path = tmp_path / "lifts.jsonl"
    whole = path.read_text().splitlines(keepends=True)
    assert len(whole) == len(looked) == 4
    path.write_text("".join(whole[:2]) + whole[2][:40])  # killed while it wrote the third
    again, same, rest = lifted_within(tmp_path, monkeypatch, limits)
    assert rest == looked[2:] and same == kept and path.read_text() == "".join(whole)
    np.testing.assert_array_equal(again.average_P, first.average_P)
    _, same, none = lifted_within(tmp_path, monkeypatch, limits)  # killed when all was looked at
    assert none == [] and same == kept and path.read_text() == "".join(whole)
    # Against other limits they count as well: it ends as a search from the start.
    (tmp_path / "fresh").mkdir()
    strict = {"max_over_refusal": 0.2}
    _, mine, other = lifted_within(tmp_path, monkeypatch, limits, **strict)
    _, fresh, every = lifted_within(tmp_path / "fresh", monkeypatch, limits, **strict)
    assert mine == fresh and not {*other} & {*looked} and {*every} <= {*other, *looked}
    assert path.read_text() == (tmp_path / "fresh" / "lifts.jsonl").read_text()
    # Of other lifts, what they do not look at is not told.
    other = {"lifts": (0.3,)}
    lifted_within(tmp_path, monkeypatch, limits, **other)
    rows = [nats_of(row) for row in read_lifts(tmp_path)]
    lifted_within(tmp_path / "fresh", monkeypatch, limits, **other)
    assert rows == [nats_of(row) for row in read_lifts(tmp_path / "fresh")] and len(rows) == 1
    lifted_within(tmp_path, monkeypatch, limits)
    monkeypatch.setattr(JUDGE, "sha256", "2")  # what another judge heard is no look of this search
    assert lifted_within(tmp_path, monkeypatch, limits)[2] == looked


def test_lines_of_one_lift_are_read_as_of_both_sides(tmp_path):
    (tmp_path / "lifts.jsonl").write_text('{"lift": 0.3, "score": 0.5}\n')
    assert read_lifts(tmp_path) == [{BARE: 0.3, ATTACKED: 0.3, "score": 0.5, "kept": True}]


def test_where_refusals_of_harm_fell_too_far_the_search_goes_up(tmp_path, monkeypatch):
    """Fewer refusals than untuned below 1.2: that is no reason to go lower still."""
    _, kept, looked = lifted_within(tmp_path, monkeypatch, limits=(9, 9, 9), rates=(1.1, 0.1))
    halving = [(nats, nats, round(nats - 0.6, 3)) for nats in (0.6, 1.2, 1.5)]
    # Nothing holds it back, and there are looks left: attacked prompts, refused less, then bare.
    up = [(1.5, 2.4, 1.8), (2.4, 2.4, 1.8)]
    assert looked == halving + up and nats_of(kept) == up[-1]


def test_where_nothing_lies_within_the_limits_the_nearest_is_kept(tmp_path, monkeypatch):
    _, kept, looked = lifted_within(tmp_path, monkeypatch, limits=(-9, -9, -9))
    assert looked == [FIRST, (0.0, 0.0, -0.6), (-0.5, -0.5, -1.1)] and kept["score"] < -1
    assert kept[BARE] == 0.6  # all are as far from them: the lesser of two, in thousandths


def test_a_lift_starts_from_the_unlifted_factors_however_often(tmp_path, monkeypatch):
    first, *_ = lifted_within(tmp_path, monkeypatch, (0.9, 0.3, 0.6))
    config = TuneConfig(lifts=LIFTS)
    after = dataclasses.replace(fresh_state(config, UPPER), average_P=first.average_P, epoch=3)
    np.testing.assert_array_equal(unlifted(after, tmp_path).average_P, THETA.astype(np.float32))
    later = dataclasses.replace(after, epoch=4)  # an epoch further it is another lift
    np.testing.assert_array_equal(unlifted(later, tmp_path).average_P, first.average_P)
    again, *_ = lifted_within(tmp_path, monkeypatch, (0.9, 0.3, 0.6))
    np.testing.assert_array_equal(again.average_P, first.average_P)


def test_lifts_that_start_elsewhere_are_measured_anew(tmp_path, monkeypatch):
    lifted_within(tmp_path, monkeypatch, (0.9, 0.3, 0.6))
    assert np.array_equal(Lift.load(tmp_path, 3).start_P, THETA.astype(np.float32))
    lifted_within(tmp_path, monkeypatch, (0.9, 0.3, 0.6), lift_from=0.5)
    np.testing.assert_allclose(Lift.load(tmp_path, 3).start_P, (1 + THETA) / 2, rtol=1e-6)


def test_lifted_factors_keep_to_their_bounds(tmp_path, monkeypatch):
    settings = {"factor_max": float(THETA.max())}
    state, *_ = lifted_within(tmp_path, monkeypatch, limits=(1.5, 1.5, 0.9), **settings)
    assert np.max(state.average_P) == np.float32(THETA.max())
    assert np.min(state.average_P) > np.min(THETA)


@grouped
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_lifted_run_resumes_byte_for_byte(finished, tmp_path, stop):
    """Stopped after its first epoch, its last one, and when all is saved but the stage's mark."""
    words = (*REGRESSION, "tune.lifts=[0.25,0.5]", "tune.strengths=[0.5,1]", "tune.lift_from=0.8")

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
    np.testing.assert_array_equal(whole.average_P, lift.by(nats_of(kept), TuneConfig()))
    np.testing.assert_array_equal(lift.last_P, np.asarray(whole.theta_P))
    way_P = np.float64(lift.last_P) - 1  # it began at 1
    assert np.abs(way_P).max() > 1e-3
    np.testing.assert_allclose(lift.start_P - 1, 0.8 * way_P, atol=1e-7)
    for lift_P in (lift.bare_P, lift.attacked_P, lift.nested_P):
        assert np.abs(lift_P).max() > 0
    log = [json.loads(line) for line in (train / "strengths.jsonl").read_text().splitlines()]
    assert {row["strength"]: row.get(BARE) for row in log}[1.0] == kept[BARE]
    cut = (tmp_path / "cut" / "train" / "lifts.jsonl").read_bytes()
    assert cut == (train / "lifts.jsonl").read_bytes()
