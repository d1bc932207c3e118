"""Slopes are those of single rows, and what the cells make of them is what counting gives."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax import cache
from nt_jax.config.method import TuneConfig
from nt_jax.data.packing import Row, Shape, pack_alone, shared_beside
from nt_jax.models.neurons import NeuronSet
from nt_jax.train import cell_slopes as cell_slopes_file
from nt_jax.train.cell_slopes import CellSlopes, cell_slopes
from nt_jax.train.cells import ATTACKED_HARMFUL, ATTACKED_HARMLESS, CELLS, HARMFUL, HARMLESS, OWN
from nt_jax.train.objectives import DECISION_TOKENS
from nt_jax.train.slopes import (
    DECISION,
    DRIFT,
    LIKELIHOOD,
    every_neuron,
    measured_slopes,
    measured_values,
    row_slopes,
    signs,
)
from nt_jax.train.tuned_layers import TunedLayers
from tests import plain
from tests.plain import plain_answer_log_probs
from tests.train.slow import arrays, of_arrays
from tests.train.test_maml import CONFIG, NEURONS, THETA, central_differences, model, some_rows

TUNE = TuneConfig(answer_tokens=4)
NAMES = (*CELLS, OWN)


def random_cells(neurons: int = 5, empty: tuple[str, ...] = (), seed: int = 0) -> CellSlopes:
    """Cells of different sizes."""
    draw = np.random.default_rng(seed)
    sizes = {name: 0 if name in empty else 3 + place for place, name in enumerate(NAMES)}
    values = {name: draw.standard_normal(sizes[name]) for name in CELLS}
    return CellSlopes({n: draw.standard_normal((k, neurons)) for n, k in sizes.items()}, values)


# --- of one row ----------------------------------------------------------------------------------


def value_of(lm, neurons, rows: list[Row]):
    """Mean log-likelihood of the answer of row n by a plain model: a function of (factors, n)."""
    token_RT, weight_RT = arrays(rows, 1.0)  # a row weighs one over their number

    def value(theta_P, n):
        mine = token_RT[n : n + 1], len(rows) * weight_RT[n : n + 1]
        return -plainly(theta_P, lm, neurons, *mine)[0]

    return value


plainly = jax.jit(of_arrays)
slope = jax.jit(jax.grad(lambda *given: -of_arrays(*given)[0]))


def slope_of(theta_P, lm, neurons, rows: list[Row], n: int) -> np.ndarray:
    """The gradient of `value_of`."""
    token_RT, weight_RT = arrays(rows, 1.0)
    return slope(theta_P, lm, neurons, token_RT[n : n + 1], len(rows) * weight_RT[n : n + 1])


def test_a_slope_is_that_of_its_row_alone(x64):
    lm, rows = model(jnp.float64), some_rows(np.random.default_rng(3), 4)
    batch = pack_alone(rows, Shape(1, 5, 12, 8, 1))  # one sequence is filler
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    settings = {"what": LIKELIHOOD, "sign_BQ": np.ones((5, 8))}
    found_B, found_BP = row_slopes(THETA, lm, NEURONS, first, **settings)
    assert not np.asarray(found_BP[4]).any()
    value = value_of(lm, NEURONS, rows)
    for n, found_P in enumerate(found_BP[:4]):
        np.testing.assert_allclose(found_B[n], value(THETA, n), rtol=1e-10)
        np.testing.assert_allclose(
            found_P, slope_of(THETA, lm, NEURONS, rows, n), rtol=1e-8, atol=1e-12
        )
        differences_P = central_differences(lambda theta_P, n=n: value(theta_P, n), THETA)
        np.testing.assert_allclose(found_P, differences_P, rtol=1e-6, atol=1e-9)
    _, again_BP = row_slopes(THETA, lm, NEURONS, first, **settings, remat=True)
    np.testing.assert_allclose(again_BP, found_BP, rtol=1e-10, atol=1e-14)


def beginning_alike(rows: list[Row], tokens: int) -> list[Row]:
    """The rows behind so many tokens that they share."""
    shared = np.random.default_rng(9).integers(3, 40, tokens).tolist()
    return [dataclasses.replace(row, prompt=[*shared, *row.prompt]) for row in rows]


@pytest.mark.parametrize(("first_layer", "alike"), [(0, 0), (1, 0), (0, 11), (1, 16)])
def test_rows_come_back_in_their_order_at_the_untuned_model(x64, first_layer, alike):
    """Twelve rows of many lengths, which are run in groups of eight by their length."""
    lm, draw = model(jnp.float64), np.random.default_rng(5)
    rows = some_rows(draw, 11, longest=9)
    rows.insert(3, Row(draw.integers(3, 40, 40).tolist(), [7, 8]))
    rows = beginning_alike(rows, alike)
    assert shared_beside(rows) == alike // 8 * 8
    neurons = every_neuron(CONFIG.layers, CONFIG.neurons, first_layer)
    tuned = TunedLayers.of(lm, neurons)
    found_M, found_MP = measured_slopes(tuned, tuned.ones_P, rows, LIKELIHOOD)
    assert found_MP.shape == (12, (CONFIG.layers - first_layer) * CONFIG.neurons)
    assert found_MP.dtype == np.float32
    ones_P, value = jnp.ones(len(neurons)), value_of(lm, neurons, rows)
    for n, found_P in enumerate(found_MP):
        np.testing.assert_allclose(found_M[n], value(ones_P, n), rtol=1e-6)
        expected_P = slope_of(ones_P, lm, neurons, rows, n)
        np.testing.assert_allclose(found_P, expected_P, rtol=1e-5, atol=1e-7)
    alone_M = measured_values(tuned, tuned.ones_P, rows, LIKELIHOOD)  # and without slopes
    np.testing.assert_allclose(alone_M, found_M, rtol=1e-12)


@pytest.mark.parametrize("what", [LIKELIHOOD, DRIFT, DECISION])
def test_what_rows_share_runs_beside_them_once(x64, what):
    """At other factors than ones, with a factor in each layer and layers made again or not."""
    lm = model(jnp.float64)
    rows = beginning_alike(some_rows(np.random.default_rng(3), 5, longest=9), 8)
    tuned, shape = TunedLayers.of(lm, NEURONS), Shape(1, 5, 32, 16, 1)
    sign_BQ = signs(range(5), shape)
    whole = jax.tree.map(lambda leaf: leaf[0], tuned.enter(pack_alone(rows, shape)))
    expected = row_slopes(THETA, tuned.lm, tuned.neurons, whole, sign_BQ, what=what)
    behind = jax.tree.map(lambda leaf: leaf[0], pack_alone(rows, shape, shared=8))
    batch, shared_1SD = tuned.enter_behind(behind, rows[0].prompt[:8])
    for remat in (False, True):
        settings = {"what": what, "remat": remat, "shared_1SD": shared_1SD}
        found = row_slopes(THETA, tuned.lm, tuned.neurons, batch, sign_BQ, **settings)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_what_rows_share_costs_once_what_it_costs_in_each_row():
    """64 tokens that eight rows share: FLOPs of the compiled slopes of both layouts."""
    lm = model()
    rows = beginning_alike(some_rows(np.random.default_rng(3), 8, longest=9), 64)
    tuned, flops = TunedLayers.of(lm, NEURONS), {}
    for shared in (0, 64):
        batch = pack_alone(rows, Shape(1, 8, 80 - shared, 8, 1), shared)
        first = jax.tree.map(lambda leaf: leaf[0], batch)
        first, shared_1SD = tuned.enter_behind(first, rows[0].prompt[:shared])
        given = tuned.ones_P, tuned.lm, tuned.neurons, first, np.ones((8, 8), np.float32)
        compiled = row_slopes.lower(*given, what=DECISION, shared_1SD=shared_1SD).compile()
        flops[shared] = compiled.cost_analysis()["flops"]
    assert flops[64] < 0.7 * flops[0]  # the way back still goes through them in each row


def test_meshes_give_the_same_slopes():
    """Weights that are shared out along fsdp, rows along data and fsdp, neurons along model."""
    rows, found = beginning_alike(some_rows(np.random.default_rng(7), 8), 8), {}
    for mesh in ((1, 1), (1, 1, 4), (2, 2, 2)):
        tuned = TunedLayers.of(plain.random_model(CONFIG, mesh=mesh), NEURONS)
        theta_P = jnp.asarray(THETA, jnp.float32)
        found[mesh] = measured_slopes(tuned, theta_P, rows, LIKELIHOOD)
    for mesh in ((1, 1, 4), (2, 2, 2)):
        for ours, alone in zip(found[mesh], found[1, 1], strict=True):
            assert np.abs(ours - alone).max() < 1e-5 * np.abs(alone).max(), mesh


def test_the_slope_of_drift_is_that_of_the_signed_tokens_of_its_row(x64):
    """Against a plain model: sum of sign x log-likelihood, over the root of the tokens."""
    lm, both = model(jnp.float64), some_rows(np.random.default_rng(4), 4)
    rows = [dataclasses.replace(row, declined=[]) for row in both]  # its own answer alone
    batch = pack_alone(rows, Shape(1, 4, 12, 8, 1))
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    sign_BQ = np.random.default_rng(0).choice([-1.0, 1.0], (4, 8))
    _, found_BP = row_slopes(THETA, lm, NEURONS, first, sign_BQ, what=DRIFT)

    def drift(theta_P, prompt, answer, sign_A):
        scale_LF = lm.ones_LF.at[NEURONS.layer_P, NEURONS.index_P].set(theta_P)
        log_prob_A = plain_answer_log_probs(lm, prompt, answer, scale_LF=scale_LF)
        return (log_prob_A * sign_A).sum() / len(answer) ** 0.5

    for row, sign_Q, found_P in zip(rows, sign_BQ, found_BP, strict=True):
        expected_P = jax.jit(jax.grad(drift))(
            THETA, np.array(row.prompt), np.array(row.answer), sign_Q[: len(row.answer)]
        )
        np.testing.assert_allclose(found_P, expected_P, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, 3, DECISION_TOKENS, DECISION_TOKENS + 4])
def test_a_decision_is_the_log_odds_of_its_first_tokens_and_its_slope_a_difference(x64, tokens):
    """Against a plain model's token log-likelihoods, at factors that are not 1."""
    lm, draw = model(jnp.float64), np.random.default_rng(tokens)
    rows = [Row(draw.integers(3, 40, 5 + n).tolist(), draw.integers(3, 40, tokens).tolist())
            for n in range(3)]  # fmt: skip
    batch = pack_alone(rows, Shape(1, 4, 24, 16, 1))  # one sequence is filler
    first = jax.tree.map(lambda leaf: leaf[0], batch)
    found = row_slopes(THETA, lm, NEURONS, first, np.ones((4, 16)), what=DECISION)
    assert np.isfinite(found[0]).all() and np.isfinite(found[1]).all()

    def decision(theta_P, row: Row) -> float:
        scale_LF = lm.ones_LF.at[NEURONS.layer_P, NEURONS.index_P].set(theta_P)
        prompt, answer = np.array(row.prompt), np.array(row.answer)
        log_prob_A = plain_answer_log_probs(lm, prompt, answer, scale_LF=scale_LF)
        chances = np.exp(np.asarray(log_prob_A[:DECISION_TOKENS], np.float64))
        return float(-np.log(np.sum((1 - chances) / chances)))

    for row, value, slope_P in zip(rows, *found, strict=False):
        np.testing.assert_allclose(value, decision(THETA, row), rtol=1e-9)
        expected_P = central_differences(lambda theta_P, row=row: decision(theta_P, row), THETA)
        np.testing.assert_allclose(slope_P, expected_P, rtol=1e-6, atol=1e-8)


def test_signs_of_a_row_are_its_own_wherever_it_is_and_take_both_values():
    narrow, wide = Shape(1, 3, 16, 8, 1), Shape(1, 2, 16, 64, 1)
    one_BQ, other_BQ = signs([4, 9, 2], narrow), signs([9, 4], wide)
    np.testing.assert_array_equal(one_BQ[:2], other_BQ[::-1, :8])
    assert set(other_BQ.ravel()) == {-1.0, 1.0} and abs(other_BQ.mean()) < 0.35  # four errors
    assert (other_BQ[0] != other_BQ[1]).any()


def test_the_drift_of_rows_comes_back_in_their_order():
    lm, rows = model(), some_rows(np.random.default_rng(5), 11, longest=9)
    tuned = TunedLayers.of(lm, NEURONS)
    _, found_MP = measured_slopes(tuned, tuned.ones_P, rows, DRIFT)
    for n in (0, 5, 10):  # alone; and a row's signs are those of its number
        shape = Shape(1, 1, 24, 8, 1)
        batch = tuned.enter(pack_alone([rows[n]], shape))
        first = jax.tree.map(lambda leaf: leaf[0], batch)
        _, (alone_P,) = row_slopes(
            tuned.ones_P, tuned.lm, tuned.neurons, first, signs([n], shape), what=DRIFT
        )
        np.testing.assert_allclose(found_MP[n], alone_P, rtol=1e-4, atol=1e-6)


def test_every_neuron_of_the_upper_layers_is_named_in_order():
    found = every_neuron(3, 4, 1)
    both = [*zip(found.layer_P.tolist(), found.index_P.tolist(), strict=True)]
    assert both == [(layer, index) for layer in (1, 2) for index in range(4)]


# --- of the cells --------------------------------------------------------------------------------


def test_the_difference_is_that_of_bare_requests():
    cells = random_cells(empty=(ATTACKED_HARMLESS,))
    means = {
        name: [sum(column) / len(rows) for column in rows.T]
        for name, rows in cells.cells.items()
        if len(rows)
    }
    expected_P = [means[HARMFUL][p] - means[HARMLESS][p] for p in range(5)]
    np.testing.assert_allclose(cells.difference_P, expected_P, rtol=1e-12)


def scatter_of(slope_MP: np.ndarray, centre_P) -> np.ndarray:
    """Sum over rows of the outer product of what is left of a row, element by element."""
    total_PP = np.zeros((slope_MP.shape[1],) * 2)
    for row in slope_MP:
        for p, q in np.ndindex(total_PP.shape):
            total_PP[p, q] += (row[p] - centre_P[p]) * (row[q] - centre_P[q])
    return total_PP


@pytest.mark.parametrize("empty", [(), (ATTACKED_HARMLESS,)])
def test_unwanted_is_all_that_moves_harmless_requests_and_how_harms_differ(empty):
    cells, none_P = random_cells(empty=empty).cells, np.zeros(5)
    expected_PP = sum(
        scatter_of(cells[name], none_P) for name in (OWN, ATTACKED_HARMLESS, HARMLESS)
    )
    for name in (ATTACKED_HARMFUL, HARMFUL):
        expected_PP = expected_PP + scatter_of(cells[name], cells[name].mean(axis=0))
    found_MP = CellSlopes(cells).unwanted_MP
    assert len(found_MP) == sum(map(len, cells.values()))
    np.testing.assert_allclose(found_MP.T @ found_MP, expected_PP, rtol=1e-10)


# --- kept ----------------------------------------------------------------------------------------


def test_slopes_are_written_read_and_cut_to_some_neurons(tmp_path):
    whole = random_cells(empty=(ATTACKED_HARMLESS,))
    whole.save(tmp_path / "slopes.npz")
    found = CellSlopes.load(tmp_path / "slopes.npz")
    columns_P = np.array([4, 0, 2])
    for name in CELLS:
        np.testing.assert_array_equal(found.values[name], whole.values[name], strict=True)
    for name in NAMES:
        np.testing.assert_array_equal(found.cells[name], whole.cells[name], strict=True)
        np.testing.assert_array_equal(found.of(columns_P).cells[name],
                                      whole.cells[name][:, columns_P])  # fmt: skip


def test_cells_get_their_own_rows_which_are_measured_once(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    asked = []

    def measured(tuned, theta_P, rows, what):
        asked.append((what, rows))
        sign = {DRIFT: -1, LIKELIHOOD: 1, DECISION: 2}[what]
        found = [[row.prompt[0], sign * row.answer[0]] for row in rows]
        return np.arange(len(rows)) / 4, np.array(found, np.float32)

    monkeypatch.setattr(cell_slopes_file, "measured_slopes", measured)
    chat = SimpleNamespace(encode=lambda text: [*text.encode()], identity="m")
    rows = {name: [(chr(65 + place) * 2, [n] * 9) for n in range(place)]
            for place, name in enumerate(NAMES)}  # fmt: skip
    pair = NeuronSet(np.array([0, 1]), np.array([3, 3]), np.ones(2, bool))
    tuned = TunedLayers.of(model(), pair)
    for _ in range(2):
        slopes_found = cell_slopes(chat, tuned, rows, TUNE)
        found = slopes_found.cells
        for place, name in enumerate(NAMES):
            expected = [[65 + place, (1 if name == OWN else 2) * n] for n in range(place)]
            if name == OWN:  # of their mean, then of their drift
                expected += [[65 + place, -n] for n in range(place)]
            np.testing.assert_array_equal(found[name], np.array(expected).reshape(-1, 2))
        every = np.concatenate([slopes_found.values[name] for name in CELLS])
        np.testing.assert_array_equal(every, np.arange(6) / 4)
    assert sorted(what for what, _ in asked) == [DECISION, DRIFT, LIKELIHOOD]
    assert all(len(row.answer) == TUNE.answer_tokens for _, rows in asked for row in rows)
    others = (
        (dataclasses.replace(tuned, neurons=dataclasses.replace(pair, index_P=np.array([3, 4]))),
         chat, TUNE),
        (dataclasses.replace(tuned, first=1), chat, TUNE),
        (tuned, SimpleNamespace(encode=chat.encode, identity="another"), TUNE),
        (tuned, chat, TUNE.model_copy(update={"answer_tokens": 3})),
    )  # fmt: skip
    for count, (layers, who, config) in enumerate(others, start=2):
        cell_slopes(who, layers, rows, config)
        assert len(asked) == 3 * count
