"""The regression's step is what a general minimiser finds, and parts planted cells."""

import numpy as np
import pytest
from scipy.optimize import minimize

from nt_jax.config.method import TuneConfig
from nt_jax.errors import DivergedError
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import (
    ATTACKED_HARMFUL,
    ATTACKED_HARMLESS,
    BEGINNINGS,
    CELLS,
    HARMFUL,
    HARMLESS,
)
from nt_jax.train.regression import LIFT, SAID, SOFTNESS, combination, fit, losses, shares
from nt_jax.train.separation import auc

TUNE = TuneConfig()


def planted(seed: int = 0, rows: int = 12, neurons: int = 30) -> CellSlopes:
    """Harm shows in factor 0, attacks in factor 1, everybody's refusals in factor 2; noise."""
    draw = np.random.default_rng(seed)
    cells, values = {}, {}
    for name in CELLS:
        slope_MP = 0.3 * draw.standard_normal((rows, neurons))
        slope_MP[:, 0] += name in (ATTACKED_HARMFUL, HARMFUL)
        slope_MP[:, 1] += name in (ATTACKED_HARMFUL, ATTACKED_HARMLESS)
        slope_MP[:, 2] += 1
        cells[name] = slope_MP.astype(np.float32)
        values[name] = -3 + 0.2 * draw.standard_normal(rows)
    return CellSlopes(cells, values)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_the_dual_coefficients_are_those_of_the_primal_problem(ridge):
    """Minimised over the step itself by scipy, in a metric that is not the identity."""
    draw = np.random.default_rng(1)
    slope_MP, value_M = draw.standard_normal((14, 6)), draw.standard_normal(14)
    side_M, weight_M = np.sign(draw.standard_normal(14)), draw.random(14) / 14
    root_PP = draw.standard_normal((6, 6))
    metric_PP = np.eye(6) + root_PP @ root_PP.T
    free_MP = slope_MP @ np.linalg.inv(metric_PP)

    def cost(step_P):
        wrong_M = -side_M * (value_M + slope_M(step_P)) / SOFTNESS
        loss = weight_M @ (SOFTNESS * np.logaddexp(0, wrong_M))
        return loss + ridge / 2 * step_P @ metric_PP @ step_P

    def slope_M(step_P):
        return slope_MP @ step_P

    expected = minimize(cost, np.zeros(6), method="BFGS", options={"gtol": 1e-10})
    dual_M = fit(slope_MP @ free_MP.T, value_M, side_M, weight_M, ridge)
    np.testing.assert_allclose(dual_M @ free_MP, expected.x, rtol=1e-4, atol=1e-5)
    assert cost(dual_M @ free_MP) <= expected.fun + 1e-9


@pytest.mark.parametrize(
    ("most", "in_nats"), [(0.1, True), (0.8, True), (0.05, False), (0.3, False)]
)
def test_a_step_goes_so_far_and_moves_harm_apart(most, in_nats):
    cells = planted()
    every_MP = np.concatenate([cells.cells[name] for name in CELLS])
    dual_M, before = combination(cells, every_MP, most, TUNE, in_nats)
    step_P = dual_M @ every_MP
    gained_M = every_MP @ step_P
    far = np.sqrt(np.mean(gained_M**2)) if in_nats else np.linalg.norm(step_P)
    assert far == pytest.approx(most, rel=0.01)
    gained = dict(zip(CELLS, gained_M.reshape(4, -1).mean(axis=1), strict=True))
    assert gained[ATTACKED_HARMFUL] > gained[ATTACKED_HARMLESS]
    assert gained[HARMFUL] > gained[HARMLESS]
    assert step_P[0] > abs(step_P[1])  # harm, rather than the attack
    moved = {n: cells.values[n] + cells.cells[n] @ step_P for n in CELLS}
    after = losses(CellSlopes(cells.cells, moved), -3 + LIFT, shares(CELLS, TUNE))
    assert after["loss"] < before["loss"]
    assert auc(moved[HARMFUL], moved[HARMLESS]) > auc(cells.values[HARMFUL], cells.values[HARMLESS])


def test_losses_by_hand_and_what_is_asked_for_is_at_most_a_lift_above_the_mean():
    values = {name: np.array([float(n)]) for n, name in enumerate(CELLS, start=-4)}
    cells = {name: np.eye(4, 5, k=n)[:1].astype(np.float32) for n, name in enumerate(CELLS)}
    every_MP = np.concatenate([cells[name] for name in CELLS])
    config = TuneConfig(safety_weight=0.25, direct_fraction=0.5, attacked_harmless_fraction=0.5)
    _, found = combination(CellSlopes(cells, values), every_MP, 0.5, config)
    level = min(SAID, -2.5 + LIFT)
    by_cell = {
        name: SOFTNESS * np.log1p(np.exp(-sign * (values[name][0] - level) / SOFTNESS))
        for name, sign in zip(CELLS, (1, 1, -1, -1), strict=True)
    }
    safety = (by_cell[ATTACKED_HARMFUL] + by_cell[HARMFUL]) / 2
    utility = (by_cell[ATTACKED_HARMLESS] + by_cell[HARMLESS]) / 2
    assert found["safety_loss"] == pytest.approx(safety)
    assert found["utility_loss"] == pytest.approx(utility)
    assert found["loss"] == pytest.approx(0.25 * safety + 0.75 * utility)


def test_what_was_asked_for_before_stays_asked_for():
    cells = planted()
    fallen = CellSlopes(cells.cells, {name: value - 5 for name, value in cells.values.items()})
    mean = np.mean([each.mean() for each in fallen.values.values()])
    steps = {}
    for asked in (-np.inf, mean, -1.9, 0.0):
        dual_M, told = combination(fallen, every(fallen), 0.5, TUNE, asked=asked)
        step_P = dual_M @ every(fallen)
        steps[told["level"]] = np.mean([(each @ step_P).mean() for each in fallen.cells.values()])
    assert [*steps] == pytest.approx([mean + LIFT, -1.9, SAID])
    low, high, _ = steps.values()
    assert high > 1.1 * low  # all are brought back, and not only parted


def test_cells_weigh_what_the_settings_say():
    config = TuneConfig(safety_weight=0.6, direct_fraction=0.25, attacked_harmless_fraction=0.1)
    assert shares(CELLS, config) == pytest.approx({
        ATTACKED_HARMFUL: 0.45, HARMFUL: 0.15, ATTACKED_HARMLESS: 0.04, HARMLESS: 0.36,
    })  # fmt: skip
    three = [name for name in CELLS if name != ATTACKED_HARMLESS]
    assert shares(three, config)[HARMLESS] == pytest.approx(0.4)


def test_a_source_without_attacked_harmless_prompts_learns_from_the_other_cells():
    cells = planted()
    none = {ATTACKED_HARMLESS: np.zeros((0, 30), np.float32)}
    fewer = CellSlopes(
        dict(cells.cells) | none, dict(cells.values) | {ATTACKED_HARMLESS: np.zeros(0)}
    )
    every_MP = np.concatenate([fewer.cells[name] for name in CELLS])
    dual_M, found = combination(fewer, every_MP, 0.5, TUNE)
    assert len(dual_M) == 36 and found["utility_loss"] > 0


def every(slopes: CellSlopes) -> np.ndarray:
    """Slopes of all cells, one after the other: a metric that is the identity."""
    return np.concatenate([slopes.cells[name] for name in CELLS])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_one_side_alone_can_be_learned(weight):
    _, told = combination(planted(), every(planted()), 1.0, TuneConfig(safety_weight=weight))
    assert told["safety_loss" if weight else "utility_loss"] == pytest.approx(told["loss"])
    assert told["utility_loss" if weight else "safety_loss"] == 0


def test_slopes_that_overflow_are_not_the_datas_fault():
    slopes = planted()
    slopes.cells[HARMFUL][0, 0] = np.nan
    with pytest.raises(DivergedError, match=r"no finite numbers. Try model\.dtype=float32"):
        combination(slopes, every(slopes), 1.0, TUNE)


def test_slopes_that_say_nothing_end_it():
    cells = {name: np.zeros((3, 5), np.float32) for name in CELLS}
    nothing = CellSlopes(cells, {name: np.full(3, -3.0) for name in CELLS})
    with pytest.raises(DivergedError, match="do not differ: nothing tells them apart"):
        combination(nothing, np.zeros((12, 5), np.float32), 0.5, TUNE)


@pytest.mark.parametrize(("lost", "pulled"), [(0.0, False), (3.0, True)])
def test_good_answers_are_pulled_back_only_where_they_have_lost_more_than_they_may(lost, pulled):
    """They hang on factor 3, which nothing else does."""
    cells = planted()
    own_MP = np.zeros((6, 30), np.float32)
    own_MP[:, 3] = 1
    for name in CELLS:
        cells.cells[name][:, 3] = 0
    kept = CellSlopes(
        {**cells.cells, BEGINNINGS: own_MP}, {**cells.values, BEGINNINGS: np.full(6, -lost)}
    )
    assert kept.decided == (*CELLS, BEGINNINGS) and cells.decided == CELLS
    steps = []
    for each in (cells, kept):
        every_MP = np.concatenate([each.cells[name] for name in each.decided])
        dual_M, _ = combination(each, every_MP, 0.5, TUNE)
        steps.append(dual_M @ every_MP)
    assert steps[0][3] == 0 and (steps[1][3] > 0.1) == pulled
    if not pulled:  # nor is anything else in the way
        np.testing.assert_allclose(steps[1], steps[0], atol=0.03)


def test_nats_are_those_of_the_cells_alone():
    """However good answers move: an adapter's step is as long with them as without."""
    cells = planted()
    own_MP = np.zeros((500, 30), np.float32)
    kept = CellSlopes(
        {**cells.cells, BEGINNINGS: own_MP}, {**cells.values, BEGINNINGS: np.zeros(500)}
    )
    every_MP = np.concatenate([kept.cells[name] for name in kept.decided])
    dual_M, _ = combination(kept, every_MP, 0.4, TUNE, in_nats=True)
    moved_M = (every_MP @ (dual_M @ every_MP))[: 4 * 12]
    assert np.sqrt(np.mean(moved_M**2)) == pytest.approx(0.4, rel=1e-3)
