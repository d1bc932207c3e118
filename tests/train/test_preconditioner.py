"""The preconditioner divides as a dense solve would, and holds back what good answers notice."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.train.preconditioner import make_preconditioner

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
