"""The contrastive score is a dense solve, and finds the neuron that tells harm from the rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.attribution.contrastive import DAMPING, contrastive_score
from nt_jax.run.contrast import scores_of, split_half
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import ATTACKED_HARMFUL, ATTACKED_HARMLESS, CELLS, HARMFUL, HARMLESS, OWN

NEURONS, ROWS = 30, 40


@given(rows=st.integers(1, 12), neurons=st.integers(1, 9), seed=st.integers(0, 99))
def test_it_is_a_solve_with_the_whole_matrix(rows, neurons, seed):
    draw = np.random.default_rng(seed)
    scatter_MP, difference_P = draw.standard_normal((rows, neurons)), draw.standard_normal(neurons)
    found_P = contrastive_score(difference_P, scatter_MP)
    scatter_PP = np.zeros((neurons, neurons))
    for row_P in scatter_MP:
        scatter_PP += np.outer(row_P, row_P) / rows
    ridge = DAMPING * np.trace(scatter_PP)
    expected_P = np.linalg.inv(scatter_PP + ridge * np.eye(neurons)) @ difference_P
    np.testing.assert_allclose(found_P, ridge * expected_P, rtol=1e-5, atol=1e-7)
    assert found_P.dtype == np.float32


def planted(seed: int = 0) -> CellSlopes:
    """Slopes of noise, and four neurons that each have a part.

    0 makes refusals of harm likelier and no others, 1 does the opposite. 2 makes all refusals
    likelier, those of harm a little more than others: it looks best to whoever only compares means.
    3 does what an attack is about.
    """
    draw = np.random.default_rng(seed)
    cells = {name: 0.1 * draw.standard_normal((ROWS, NEURONS)) for name in (*CELLS, OWN)}
    for name in CELLS:
        harmful, attacked = name in (ATTACKED_HARMFUL, HARMFUL), name.startswith("attacked")
        cells[name][:, 0] += 1.0 * harmful
        cells[name][:, 1] -= 1.0 * harmful
        cells[name][:, 2] += 5 + 2 * harmful
        cells[name][:, 3] += 3.0 * attacked
    return CellSlopes(cells)


@pytest.mark.parametrize("seed", range(3))
def test_what_tells_harm_apart_ranks_first_and_has_its_sign(seed):
    slopes = planted(seed)
    score_P = scores_of(slopes)
    assert score_P.argmax() == 0 and score_P.argmin() == 1
    assert slopes.difference_P.argmax() == 2 and abs(score_P[2]) < score_P[0] / 3
    assert abs(score_P[3]) < score_P[0] / 3
    swapped = dict(slopes.cells)
    for harmful, harmless in ((ATTACKED_HARMFUL, ATTACKED_HARMLESS), (HARMFUL, HARMLESS)):
        swapped[harmful], swapped[harmless] = swapped[harmless], swapped[harmful]
    other_P = scores_of(CellSlopes(swapped))
    assert other_P.argmax() == 1 and other_P.argmin() == 0


# --- two halves of the prompts -------------------------------------------------------------------


def test_halves_that_are_alike_share_all_of_their_best():
    twice = {name: np.repeat(rows, 2, axis=0) for name, rows in planted().cells.items()}
    assert split_half(CellSlopes(twice)) == {"top": 3, "shared": 1.0, "chance": 0.1}


def test_halves_of_noise_share_what_chance_gives_and_halves_of_something_more():
    draw = np.random.default_rng(0)
    noise = {name: draw.standard_normal((ROWS, 2000)) for name in (*CELLS, OWN)}
    found = split_half(CellSlopes(noise))
    assert found["top"] == 200 and found["chance"] == 0.1
    assert found["shared"] == pytest.approx(0.1, abs=0.08)  # four standard errors
    assert split_half(planted())["shared"] >= 2 / 3


def test_the_halves_are_every_other_prompt():
    """One half tells harm apart by one neuron, the other by another."""
    draw = np.random.default_rng(0)
    cells = {name: 0.1 * draw.standard_normal((ROWS, 10)) for name in (*CELLS, OWN)}
    for name in (ATTACKED_HARMFUL, HARMFUL):
        cells[name][::2, 4] += 5
        cells[name][1::2, 7] += 5
    found = split_half(CellSlopes(cells))
    assert (found["top"], found["shared"]) == (1, 0.0)
