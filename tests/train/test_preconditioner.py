"""The preconditioner divides as a dense solve would, and what is left tells harm from the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import ATTACKED_HARMFUL, ATTACKED_HARMLESS, HARMFUL, HARMLESS, OWN
from nt_jax.train.preconditioner import make_preconditioner, refusing, unit_rms

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


def test_the_way_that_refuses_harm_alone_and_its_gain_by_hand():
    """Three factors: the first moves only refusals of harm, the second those of everybody.

    Harmful refusals have slopes (1, 3, 0), attacked ones (2, 3, 0), harmless ones (0, 3, 0), and
    own answers drift by the third: F leaves the first factor alone. A quarter of them bare, harmful
    refusals have a mean of 1.75 there. At a root mean square of 1 the way is (sqrt 3, 0, 0).
    """
    rows = {ATTACKED_HARMFUL: (2, 3, 0), HARMFUL: (1, 3, 0), ATTACKED_HARMLESS: (0, 3, 0),
            HARMLESS: (0, 3, 0), OWN: (0, 0, 1)}  # fmt: skip
    cells = CellSlopes({name: np.tile(np.float32(row), (3, 1)) for name, row in rows.items()})
    way_P, gain = refusing(cells, make_preconditioner(cells.unwanted_MP, 1e-7), 0.25)
    np.testing.assert_allclose(way_P, [np.sqrt(3), 0, 0], rtol=1e-5, atol=1e-5)
    assert gain == pytest.approx(1.75 * np.sqrt(3), rel=1e-5)


@given(seed=st.integers(0, 99), direct=st.sampled_from([0, 0.25, 1]))
def test_the_gain_is_how_much_likelier_the_way_makes_refusals_of_harm(seed, direct):
    draw = np.random.default_rng(seed)
    names = (ATTACKED_HARMFUL, HARMFUL, ATTACKED_HARMLESS, HARMLESS, OWN)
    cells = {name: draw.standard_normal((4, 6)).astype(np.float32) for name in names}
    both = CellSlopes(cells)
    way_P, gain = refusing(both, make_preconditioner(both.unwanted_MP, DAMPING), direct)
    bare, attacked = ((cells[n] @ np.asarray(way_P)).mean() for n in (HARMFUL, ATTACKED_HARMFUL))
    assert gain == pytest.approx(direct * bare + (1 - direct) * attacked, rel=1e-3)
    assert gain > 0  # as a division by something positive definite turns no direction round
    assert np.mean(np.square(way_P)) == pytest.approx(1, rel=1e-6)


def test_a_direction_gets_a_length_of_one_and_none_stays_none():
    np.testing.assert_allclose(unit_rms(jnp.array([3.0, -4.0])), np.array([3, -4]) / np.sqrt(12.5),
                               rtol=1e-6)  # fmt: skip
    assert not np.asarray(unit_rms(jnp.zeros(3))).any()
