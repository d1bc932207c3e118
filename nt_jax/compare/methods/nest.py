"""NeST on a run's data: bare requests alone, as its authors have it, and whole refusals.

The grid is that of LoRA: no rate is known to us (nt_jax/baselines/nest.py).
"""

from pathlib import Path

import numpy as np

from nt_jax.baselines.nest import Nest, find_clusters
from nt_jax.compare.fitting_data import WHOLE, FittingData
from nt_jax.compare.method import Learned, Method, Setting, UnusableSettingError
from nt_jax.compare.methods.adapters import by_adam, learned, rates, tested
from nt_jax.config.method import TuneConfig
from nt_jax.config.registry import METHODS
from nt_jax.errors import DataError
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.train.cells import HARMFUL, HARMLESS, cell_rows

PROBED = 512  # prompts of each kind that the probe reads, at most
PLACES = ("layer", "index", "cluster")


def nest() -> Method:
    """Shared updates of clusters of neurons, trained on refusals of bare harmful requests alone."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        model, cells = data.model, cell_rows(data.pools, PROBED)
        bare = [[model.encode(prompt) for prompt, _ in cells[name]] for name in (HARMFUL, HARMLESS)]
        batch_size = data.config.eval.batch_size
        try:
            adapter = find_clusters(model.lm, *bare, seed=data.config.seed, batch_size=batch_size)
        except DataError as error:
            raise UnusableSettingError(str(error)) from error
        config = own_terms(data.config.tune, setting["learning_rate"])
        places = {name: np.asarray(getattr(adapter, name)) for name in PLACES}
        return places | learned(data, adapter, data.whole_pools, config)

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        layer, index, cluster = (tuple(learned[name].tolist()) for name in PLACES)
        adapter = Nest(layer, index, cluster)
        return tested("nest", data, adapter, learned, setting["strength"])

    return Method("nest", METHODS["nest"].label, fit, build, rates(), ("learning_rate",))


def own_terms(tune: TuneConfig, rate: float) -> TuneConfig:
    """LoRA's steps and batches; refusals of bare requests, as whole answers, are the only loss."""
    whole = {"answer_tokens": WHOLE, "token_decay": 1.0}
    return by_adam(tune, rate, safety_weight=1.0, direct_fraction=1.0, **whole)
