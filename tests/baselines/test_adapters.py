"""The common descent: NeuronTune's own steps where the adapter is NeuronTune's, exact gradients."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax import cache
from nt_jax.baselines import descent
from nt_jax.baselines.adapters import Form, merged
from nt_jax.baselines.descent import descend, slope_and_losses
from nt_jax.baselines.ia3 import FULL, Ia3
from nt_jax.baselines.lora import Lora
from nt_jax.errors import DivergedError
from nt_jax.models.leaves import get_leaf
from nt_jax.models.transformer import logits
from nt_jax.train.cells import CELLS, cell_rows
from nt_jax.train.maml import MetaOptions
from nt_jax.train.outer import direction, measured_cells
from nt_jax.train.slopes import DECISION, every_neuron
from nt_jax.train.tune import tune
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.tuning_data import TuningData
from nt_jax.train.validate import Validation
from tests.baselines import adapter_data as data
from tests.baselines.test_lora import batch

pytestmark = pytest.mark.usefixtures("mixed_dtypes")
TOKENS = np.array([[5, 9, 30, 11, 7, 60], [8, 3, 4, 90, 12, 2]], np.int32)
EVERY = (
    Lora(rank=2, leaves=("blocks.mlp.down", "blocks.attn.v"), first=1),
    Ia3(FULL),
    Ia3(first=1),
)


@pytest.fixture(autouse=True)
def uncached(monkeypatch):
    monkeypatch.setenv(cache.VARIABLE, cache.OFF)


@pytest.mark.parametrize(("outer", "first"), [("regression", 1), ("adam", 0)])
def test_ia3_of_down_projections_is_descent_on_the_factors_of_every_neuron(
    x64, monkeypatch, outer, first
):
    """Tuning itself, with K = 0, all neurons and steps of its length: another program."""
    model = data.double_model()
    own = {"inner_steps": 0, "outer": outer, "meta_lr": 0.2, "step_prompts": (0.5, 1.0)}
    config = data.CONFIG.model_copy(update=own)
    size = model.lm.config
    neurons = every_neuron(size.layers, size.neurons, first)
    nothing = TuningData(data.pools(), Validation({}, {}))
    factors = tune(model, neurons, nothing, config, seed=3)
    adapter = Ia3(bounds=config.bounds, first=first)

    def of_a_length(slopes, metric, _nats, config, mesh, in_nats, asked):
        length = config.meta_lr * math.sqrt((size.layers - first) * size.neurons)
        return direction(slopes, metric, length, config, mesh, not in_nats, asked)

    monkeypatch.setattr(descent, "direction", of_a_length)
    params, history = descend(model, adapter, data.pools(), config, seed=3)
    found_P = np.asarray(params["blocks.mlp.down"]).reshape(-1)
    np.testing.assert_allclose(found_P, factors.theta_P, rtol=1e-5, atol=1e-6)
    assert np.abs(found_P - 1).max() > 0.01 and len(history) == config.epochs
    scale_LF = jnp.asarray(factors.scale_LF(size.layers, size.neurons))
    new = merged(model.lm, adapter, params)
    expected = logits(model.lm, TOKENS, TOKENS > 0, scale_LF)
    np.testing.assert_allclose(logits(new, TOKENS, TOKENS > 0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adapter", EVERY)
def test_gradients_are_those_of_finite_differences(x64, adapter):
    lm = data.double_model("qwen2").lm
    tuned = TunedLayers.above(lm, adapter.first, descent.NOBODY)
    params = adapter.fresh(lm.config, jnp.float64, 0)
    form = Form.of(adapter, params)
    generator = np.random.default_rng(0)
    theta_P = form.vector(params) + 0.1 * generator.standard_normal(form.count)
    sides = tuned.enter(
        {"global_safety": batch(3, 8, 4), "global_utility": batch(5, 8, 4, stretches=2)}
    )
    options = MetaOptions(safety_weight=0.3, token_decay=0.9)
    slope = jax.jit(lambda t_P: slope_and_losses(t_P, {}, tuned.lm, sides, options, form))
    g_P, losses = slope(theta_P)
    total = 0.3 * losses["safety_loss"] + 0.7 * losses["utility_loss"]
    assert float(losses["loss"]) == pytest.approx(float(total), rel=1e-12)
    way_P = generator.standard_normal(form.count)
    ends = [float(slope(theta_P + size * way_P)[1]["loss"]) for size in (1e-5, -1e-5)]
    assert float(g_P @ way_P) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_a_regression_teaches_lora_b_alone_and_moves_decisions_by_a_nat():
    model, adapter = data.model(), Lora(rank=2)
    config = data.CONFIG.model_copy(update={"epochs": 1, "average": 0.0})
    params, history = descend(model, adapter, data.pools(), config)
    fresh = adapter.fresh(model.lm.config, jnp.float32, 0)
    np.testing.assert_array_equal(params["blocks.mlp.down/a"], fresh["blocks.mlp.down/a"])
    felt = Form.of(adapter, {"blocks.mlp.down/b": fresh["blocks.mlp.down/b"]})
    fixed = {"blocks.mlp.down/a": fresh["blocks.mlp.down/a"]}
    tuned = TunedLayers.above(model.lm, 0, descent.NOBODY)
    at = (felt.vector(fresh), fixed)
    measure = functools.partial(descent.measured, tuned, felt, *at, what=DECISION)
    cells = cell_rows(data.pools(), config.metric_requests // len(CELLS))
    slopes = measured_cells(model, cells, config, measure)
    forward = measured_cells(model, cells, config, functools.partial(measure, sloped=False))
    for name, value_M in slopes.values.items():  # without slopes the values are the same
        np.testing.assert_allclose(forward.values[name], value_M, rtol=1e-6)
        assert forward.cells[name].shape == (len(value_M), 0)
    move_P = felt.vector(params)
    gained = np.concatenate([slopes.cells[name] for name in CELLS]) @ np.asarray(move_P)
    assert np.sqrt(np.mean(gained**2)) == pytest.approx(descent.NATS, rel=0.01)
    assert {"loss", "safety_loss", "utility_loss"} <= history[0].keys()


def test_strength_is_the_share_of_the_way_and_0_the_untouched_model():
    model = data.model("qwen2")
    for adapter in EVERY:
        params = adapter.fresh(model.lm.config, jnp.float32, 0)
        noise = np.random.default_rng(0)
        params = {
            n: x if n.endswith("/a") else x + noise.normal(size=x.shape).astype(np.float32)
            for n, x in params.items()
        }
        old = {name: np.asarray(x) for name, x in weights(model.lm, adapter).items()}
        at = {s: weights(merged(model.lm, adapter, params, s), adapter) for s in (0.0, 0.5, 1.0)}
        for name in old:
            np.testing.assert_array_equal(at[0.0][name], old[name])
            half = (old[name] + np.asarray(at[1.0][name])) / 2
            np.testing.assert_allclose(at[0.5][name], half, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(
                at[1.0][name][: adapter.first], old[name][: adapter.first]
            )
            assert np.abs(at[1.0][name] - old[name]).max() > 0.01


def weights(lm, adapter):
    return {name: get_leaf(lm, name) for name in adapter.targets(lm.config)}


def test_refusals_alone_are_learned_where_nothing_else_weighs():
    config = data.CONFIG.model_copy(
        update={"safety_weight": 1.0, "outer": "adam", "meta_lr": 0.01, "epochs": 30}
    )
    _, history = descend(data.model(), Lora(rank=2), data.pools(), config)
    assert history[-1]["safety_loss"] < 0.8 * history[0]["safety_loss"]
    assert not any(row["utility_loss"] for row in history)


def test_a_descent_that_diverges_says_so():
    config = data.CONFIG.model_copy(update={"outer": "adam", "meta_lr": 1e38})
    with pytest.raises(DivergedError, match="diverged in update"):
        descend(data.model(), Lora(rank=2), data.pools(), config)


def test_forms_are_vectors_and_back():
    params = {"b": jnp.arange(6.0).reshape(2, 3), "a": jnp.ones((1, 2))}
    form = Form.of(Ia3(), params)
    again = form.params(form.vector(params))
    assert form.count == 8 and form == dataclasses.replace(form)
    for name, leaf in params.items():
        np.testing.assert_array_equal(again[name], leaf)
