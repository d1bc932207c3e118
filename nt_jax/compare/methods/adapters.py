"""LoRA and (IA)^3 on a run's data, by the descent that all adapters share and the run's own terms.

Grids hold the best guess first; the search takes as many from the front as it may.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nt_jax.baselines.adapters import Adapter, Params, merged
from nt_jax.baselines.descent import Objective, descend, likelihoods
from nt_jax.baselines.ia3 import DOWN, FULL, Ia3
from nt_jax.baselines.lora import Lora
from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.method import Learned, Method, Setting, UnusableSettingError
from nt_jax.compare.methods.neurontune import strengths
from nt_jax.config.method import TuneConfig
from nt_jax.config.registry import METHODS
from nt_jax.errors import DivergedError
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.train.pools import Pools

AdapterOf = Callable[[FittingData], Adapter]

# (Adam's rate, share of the way to what was learned): every rate first, then how far to go, less
# for fast rates and more for slow ones. Another share costs a validation, another rate a fit.
STEPS, AVERAGE = 48, 0.8  # of Adam on small batches, at least, and of their exponential mean
RATES = (
    (1e-3, 1.0), (3e-4, 1.0), (3e-3, 1.0), (1e-4, 1.0), (1e-3, 0.7), (3e-3, 0.7), (3e-4, 0.7),
    (3e-4, 1.4), (1e-3, 1.4), (1e-4, 1.4), (3e-3, 0.4), (1e-3, 0.4), (1e-4, 2.0), (3e-3, 1.4),
    (3e-4, 2.0),
)  # fmt: skip


def lora() -> Method:
    """Low-rank changes of the down projections, by Adam."""
    return by_rate("lora", lambda data: Lora(first=data.config.neurons.first_layer))


def lora_metric() -> Method:
    """The same by the run's regression, which asks for no rate: the step is one in nats."""
    return as_tuned(
        "lora_metric",
        lambda data: Lora(first=data.config.neurons.first_layer),
        {"outer": "regression"},
    )


def ia3() -> Method:
    """A factor for every neuron: NeuronTune without a choice of neurons, as a merged adapter."""
    return as_tuned("ia3", lambda data: _ia3(data, DOWN))


def ia3_full() -> Method:
    """The targets that PEFT takes by default: keys, values and neurons."""
    return as_tuned("ia3_full", lambda data: _ia3(data, FULL))


def _ia3(data: FittingData, modules: tuple[str, ...]) -> Ia3:
    return Ia3(modules, data.config.tune.bounds, data.config.neurons.first_layer)


def as_tuned(name: str, adapter: AdapterOf, change: Setting | None = None) -> Method:
    """A method that learns once, by the run's own outer update, and tries several strengths."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        tune = data.config.tune.model_copy(update=change or {})
        if tune.outer == "regression" and not tune.metric_requests:
            raise UnusableSettingError("the run measures no slopes (tune.metric_requests=0)")
        return learned(data, adapter(data), data.pools, tune)

    build = builder(name, adapter)
    return Method(name, METHODS[name].label, fit, build, strengths())


def by_rate(name: str, adapter: AdapterOf) -> Method:
    """A method that learns by Adam at one of RATES, and tries several strengths."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        tune = by_adam(data.config.tune, setting["learning_rate"])
        return learned(data, adapter(data), data.pools, tune)

    build = builder(name, adapter)
    return Method(name, METHODS[name].label, fit, build, rates(), ("learning_rate",))


def by_adam(tune: TuneConfig, rate: float, **change: Any) -> TuneConfig:
    """A run's terms with Adam's steps, which hear few prompts each: as many for every method."""
    steps = {"outer": "adam", "schedule": "cosine", "meta_lr": rate, "average": AVERAGE}
    return tune.model_copy(update=steps | {"epochs": max(tune.epochs, STEPS)} | change)


def rates() -> list[Setting]:
    """The settings of every method that learns by Adam."""
    return [{"learning_rate": rate, "strength": share} for rate, share in RATES]


def learned(
    data: FittingData,
    adapter: Adapter,
    pools: Pools,
    config: TuneConfig,
    objective: Objective = likelihoods,
) -> Learned:
    """What an adapter learns from these pools; parameters that stayed as drawn are left out."""
    try:
        params, _ = descend(data.model, adapter, pools, config, data.config.seed, objective)
    except DivergedError as error:
        raise UnusableSettingError(str(error)) from error
    fresh = untouched(data, adapter)
    return {n: np.asarray(x) for n, x in params.items() if not np.array_equal(x, fresh[n])}


def untouched(data: FittingData, adapter: Adapter) -> Params:
    """The parameters before anything was learned, by the run's seed."""
    lm = data.model.lm
    return adapter.fresh(lm.config, lm.ones_LF.dtype, data.config.seed)


def builder(name: str, adapter: AdapterOf) -> Callable[..., ModelUnderTest]:
    """`build` of a method whose adapter is known before it has learned anything."""

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        return tested(name, data, adapter(data), learned, setting["strength"])

    return build


def tested(
    name: str, data: FittingData, adapter: Adapter, learned: Learned, strength: float
) -> ModelUnderTest:
    """The model under test: plain weights, the adapter merged at a strength."""
    fresh = untouched(data, adapter)
    params = fresh | {n: jnp.asarray(x) for n, x in learned.items() if n in fresh}
    changed = merged(data.model.lm, adapter, params, strength)
    return ModelUnderTest(name, dataclasses.replace(data.model, weights=lambda: changed))
