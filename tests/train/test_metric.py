"""The metric divides as a dense solve would, and its slopes are those of single rows."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.train.metric import make_metric, row_slopes, slopes
from tests import plain
from tests.train.slow import nll_and_kl
from tests.train.test_maml import NEURONS, THETA, model, sub_batch

DAMPING = 0.01


@given(rows=st.integers(1, 12), factors=st.integers(1, 9), seed=st.integers(0, 99))
def test_dividing_is_a_solve_with_the_whole_matrix(rows, factors, seed):
    draw = np.random.default_rng(seed)
    slope_MP, g_P = draw.standard_normal((rows, factors)), draw.standard_normal(factors)
    with jax.enable_x64(True):
        found_P = make_metric(slope_MP, DAMPING).divide(jnp.asarray(g_P))
    fisher_PP = slope_MP.T @ slope_MP / rows
    ridge = DAMPING * np.trace(fisher_PP)
    expected_P = ridge * np.linalg.solve(fisher_PP + ridge * np.eye(factors), g_P)
    np.testing.assert_allclose(found_P, expected_P, rtol=1e-8, atol=1e-12)


def test_what_moves_no_harmless_request_passes_and_what_does_is_held_back():
    slope_MP = np.array([[3.0, 0, 0], [0, 1, 0]], np.float32)
    found_P = make_metric(slope_MP, 1e-4).divide(jnp.ones(3, jnp.float32))
    assert found_P[2] == 1.0 and 0 < found_P[0] < found_P[1] < 2e-3


def test_a_slope_is_the_gradient_of_that_row_alone(x64):
    lm, batch = model(jnp.float64), sub_batch(np.random.default_rng(3), 6, rows=4)
    found_BP = jax.jit(row_slopes)(THETA, lm, NEURONS, batch, 0.8)
    for row in range(4):
        one = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], batch)
        loss = lambda t_P, one=one: nll_and_kl(t_P, lm, NEURONS, (one,), 0.8)[0]  # noqa: E731
        np.testing.assert_allclose(found_BP[row], -jax.grad(loss)(THETA), rtol=1e-8, atol=1e-12)


def test_rows_keep_their_order_whatever_they_are_batched_with():
    draw = np.random.default_rng(5)
    prompts, answers = (
        [draw.integers(3, plain.CONFIG.vocab_size, n).tolist() for n in lengths]
        for lengths in ((40, 3, 9, 5, 2), (4, 4, 2, 4, 3))
    )
    lm, ticks = model(), []
    settings = {"answer_width": 4, "decay": 0.9, "batch_size": 2}
    found_MP = slopes(lm, NEURONS, prompts, answers, **settings, advance=ticks.append)
    assert found_MP.shape == (5, len(NEURONS)) and found_MP.dtype == np.float32
    assert sum(ticks) == 5
    for row in range(5):
        alone_P = slopes(lm, NEURONS, [prompts[row]], [answers[row]], **settings)[0]
        np.testing.assert_allclose(found_MP[row], alone_P, rtol=1e-4, atol=1e-6)


def test_without_any_row_there_are_no_slopes():
    assert slopes(model(), NEURONS, [], [], answer_width=4, decay=0.9).shape == (0, len(NEURONS))
