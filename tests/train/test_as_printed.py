"""`tune.algorithm: paper` is Algorithm 1 as the paper prints it, line by line, and nothing else."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.config.method import TuneConfig
from nt_jax.generate.chat import load_model
from nt_jax.models.neurons import NeuronSet
from nt_jax.train.pools import Pair, Pool, Pools
from nt_jax.train.state import restore
from nt_jax.train.tune import STATES, fresh_state, tune
from nt_jax.train.tuning_data import TuningData
from nt_jax.train.validate import Validation
from tests import plain, tiny

EPOCHS = 5
SAFETY, UTILITY = 4, 3
NEURONS = NeuronSet(
    layer_P=np.array([1, 0, 1, 0, 0, 1, 1], np.int32),
    index_P=np.array([5, 3, 20, 7, 23, 0, 11], np.int32),
    is_safety_P=np.arange(SAFETY + UTILITY) < SAFETY,
)
CONFIG = TuneConfig(
    algorithm="paper", epochs=EPOCHS, inner_steps=2, inner_lr=0.7, meta_lr=0.9, safety_weight=0.4,
    init_safety=1.3, init_utility=0.8, global_batch=0, answer_tokens=5, validation_answers=0,
    separation_every=0,
)  # fmt: skip


def straight_line(lm, sets: dict[str, list[tuple[list[int], list[int]]]]) -> tuple[list, list]:
    """Algorithm 1 in the order of its lines, on whole sets: (Theta after each epoch, losses).

    No packing, no scan, no mesh; the outer gradient is jax.grad through jax.grad.
    """

    def mean_nll(theta_P, rows):  # EvalSafety, EvalUtility: mean over answers of mean over tokens
        scale_LF = jnp.ones((lm.config.layers, lm.config.neurons))
        scale_LF = scale_LF.at[NEURONS.layer_P, NEURONS.index_P].set(theta_P)
        each = [plain.plain_answer_log_probs(lm, *row, scale_LF=scale_LF).mean() for row in rows]
        return -sum(each) / len(each)

    def joint(theta_P):
        for _ in range(CONFIG.inner_steps):  # line 10
            slope_P = jax.grad(mean_nll)(theta_P, sets["local_safety"])  # lines 11-12
            theta_P = theta_P.at[:SAFETY].add(-CONFIG.inner_lr * slope_P[:SAFETY])  # line 13
            slope_P = jax.grad(mean_nll)(theta_P, sets["local_utility"])  # lines 14-15
            theta_P = theta_P.at[SAFETY:].add(CONFIG.inner_lr * slope_P[SAFETY:])  # line 16
        safety = mean_nll(theta_P, sets["global_safety"])  # line 18
        utility = mean_nll(theta_P, sets["global_utility"])  # line 19
        weight = CONFIG.safety_weight
        return weight * safety + (1 - weight) * utility, (safety, utility)  # line 20

    step = jax.jit(jax.value_and_grad(joint, has_aux=True))
    theta_P = jnp.asarray([1.3] * SAFETY + [0.8] * UTILITY)  # lines 1-6
    thetas, losses = [], []
    for _ in range(EPOCHS):  # line 7
        (_, parts), slope_P = step(theta_P)
        theta_P = theta_P - CONFIG.meta_lr * slope_P  # line 21
        thetas.append(np.asarray(theta_P))
        losses.append([float(part) for part in parts])
    return thetas, losses


@pytest.fixture
def model(x64):
    """A tiny chat model whose weights are float64."""
    found = load_model(tiny.checkpoint("llama2"))
    lm = plain.random_model(found.checkpoint.config, jnp.float64)
    return dataclasses.replace(found, weights=lambda: lm)


def pool(model, *rows: tuple[str, str]) -> Pool:
    return Pool([], [Pair(asked, model.answer_ids(answer)) for asked, answer in rows])


def test_it_equals_a_straight_line_algorithm_1(model, tmp_path):
    safety = pool(model, ("Play. A?", "No."), ("Act. B?", "I cannot."), ("C!", "Never do."))
    useful = pool(model, ("Why?", "So."), ("Who?", "The man."))
    pools = Pools(
        dataclasses.replace(safety, attacked=safety.attacked[:1]),
        dataclasses.replace(safety, attacked=safety.attacked[1:]),
        Pool(useful.attacked[:1], []),
        Pool(useful.attacked[1:], []),
    )
    data = TuningData(pools, Validation({}, {}))
    factors = tune(model, NEURONS, data, CONFIG, folder=tmp_path)

    sets = {
        name: [(model.encode(p.request), p.answer[:5]) for p in (*rows.direct, *rows.attacked)]
        for name, rows in vars(pools).items()
    }
    thetas, losses = straight_line(model.lm, sets)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = [[row["safety_loss"], row["utility_loss"]] for row in lines]
    np.testing.assert_allclose(found, losses, rtol=1e-8)
    np.testing.assert_allclose(factors.theta_P, thetas[-1], rtol=1e-8)
    state = restore(tmp_path / STATES, fresh_state(CONFIG, NEURONS, jnp.float64))
    assert state.theta_P.dtype == np.float64 and int(state.best_epoch) == EPOCHS
    assert np.abs(thetas[-1] - thetas[0]).max() > 1e-3  # it went somewhere


def test_factors_and_moments_follow_the_type_of_the_losses(x64):
    adam = TuneConfig(outer="adam", metric_requests=0)
    for dtype in (jnp.float32, jnp.float64):
        state = fresh_state(adam, NEURONS, dtype)
        kinds = {leaf.dtype for leaf in jax.tree.leaves(state.optimiser) if leaf.ndim}
        assert kinds == {state.theta_P.dtype} == {jnp.dtype(dtype)}
