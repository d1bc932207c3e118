"""The preconditioner divides as a dense solve would, and its slopes are those of single rows."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.data.packing import Shape, pack_alone, pack_rows
from nt_jax.train.preconditioner import make_preconditioner, mean_slope, row_slopes
from tests.train.slow import arrays, of_arrays
from tests.train.test_maml import NEURONS, THETA, model, some_rows

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


def test_a_slope_is_the_gradient_of_that_row_alone(x64):
    lm, rows = model(jnp.float64), some_rows(np.random.default_rng(3), 4)
    batch = pack_alone(rows, Shape(1, 5, 12, 8, 1))  # one sequence is filler
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    found_BP = jax.jit(row_slopes)(THETA, lm, NEURONS, first, 0.8)
    assert not np.asarray(found_BP[4]).any()
    loss = lambda t_P, *row: of_arrays(t_P, lm, NEURONS, *row)[0]  # noqa: E731
    slope = jax.jit(jax.grad(loss))
    token_RT, weight_RT = arrays(rows, 0.8)  # a row weighs one over their number
    expected_BP = np.array([
        -slope(THETA, token_RT[n : n + 1], len(rows) * weight_RT[n : n + 1]) for n in range(4)
    ])  # fmt: skip
    np.testing.assert_allclose(found_BP[:4], expected_BP, rtol=1e-8, atol=1e-12)
    together = pack_rows(rows, Shape(4, 1, 12, 24, 4))
    mean_P = jax.jit(mean_slope)(THETA, lm, NEURONS, together, 0.8)
    np.testing.assert_allclose(mean_P, np.mean(expected_BP, axis=0), rtol=1e-8, atol=1e-12)
