"""The preconditioner divides as a dense solve would, and what is left tells harm from the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.train.cells import ATTACKED_HARMFUL, ATTACKED_HARMLESS, HARMFUL, HARMLESS, OWN
from nt_jax.train.preconditioner import make_preconditioner, separating, unit_rms
from nt_jax.train.slopes import CellSlopes

DAMPING = 0.01


@given(rows=st.integers(1, 12), factors=st.integers(1, 9), seed=st.integers(0, 99))
def test_dividing_is_a_solve_with_the_whole_matrix(rows, factors, seed):
    draw = np.random.default_rng(seed)
    slope_MP, g_P = draw.standard_normal((rows, factors)), draw.standard_normal(factors)
    with jax.enable_x64(True):
        found_P = make_preconditioner(slope_MP, DAMPING).divide(jnp.asarray(g_P))
    fisher_PP = slope_MP.T @ slope_MP / rows
    ridge = DAMPING * np.trace(fisher_PP)
    expected_P = ridge * np.linalg.solve(fisher_PP + ridge * np.eye(factors), g_P)
    np.testing.assert_allclose(found_P, expected_P, rtol=1e-8, atol=1e-12)


def test_what_moves_no_harmless_request_passes_and_what_does_is_held_back():
    slope_MP = np.array([[3.0, 0, 0], [0, 1, 0]], np.float32)
    found_P = make_preconditioner(slope_MP, 1e-4).divide(jnp.ones(3, jnp.float32))
    assert found_P[2] == 1.0 and 0 < found_P[0] < found_P[1] < 2e-3


def test_the_way_that_tells_harm_apart_and_its_gain_by_hand():
    """Two factors: the first moves only refusals of harm, the second those of everybody.

    Harmful refusals have slopes (2, 3), harmless ones (0, 3), and there are no own answers: the
    difference is (2, 0), and F leaves the first factor alone. At a root mean square of 1 the way is
    (sqrt 2, 0), and its gain 2 sqrt 2.
    """
    refused, spared = (np.tile(np.float32(row), (3, 1)) for row in ((2, 3), (0, 3)))
    cells = CellSlopes({
        ATTACKED_HARMFUL: refused, HARMFUL: refused, ATTACKED_HARMLESS: spared, HARMLESS: spared,
        OWN: np.zeros((0, 2), np.float32),
    })  # fmt: skip
    way_P, gain = separating(cells, make_preconditioner(cells.unwanted_MP, DAMPING))
    np.testing.assert_allclose(way_P, [np.sqrt(2), 0], rtol=1e-6)
    assert gain == pytest.approx(2 * np.sqrt(2), rel=1e-6)


@given(seed=st.integers(0, 99))
def test_the_gain_is_how_far_the_way_parts_the_cells(seed):
    draw = np.random.default_rng(seed)
    names = (ATTACKED_HARMFUL, HARMFUL, ATTACKED_HARMLESS, HARMLESS, OWN)
    cells = {name: draw.standard_normal((4, 6)).astype(np.float32) for name in names}
    both = CellSlopes(cells)
    way_P, gain = separating(both, make_preconditioner(both.unwanted_MP, DAMPING))
    harmful, harmless = ((cells[name] @ np.asarray(way_P)).mean() for name in (HARMFUL, HARMLESS))
    assert gain == pytest.approx(harmful - harmless, rel=1e-4)
    assert gain > 0  # as a division by something positive definite turns no direction round
    assert np.mean(np.square(way_P)) == pytest.approx(1, rel=1e-6)


def test_a_direction_gets_a_length_of_one_and_none_stays_none():
    np.testing.assert_allclose(unit_rms(jnp.array([3.0, -4.0])), np.array([3, -4]) / np.sqrt(12.5),
                               rtol=1e-6)  # fmt: skip
    assert not np.asarray(unit_rms(jnp.zeros(3))).any()
