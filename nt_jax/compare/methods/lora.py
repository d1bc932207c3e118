"""LoRA on a run's data: the outer likelihoods on the outer batches, kept at several updates.

The grid holds the published setting first; the search takes as many from the front as it may.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nt_jax.baselines.lora import Adapter, LoraOptions, Sides, merged, train_lora
from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.method import Learned, Method, Setting, UnusableSettingError
from nt_jax.config.registry import METHODS
from nt_jax.errors import RunError
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.mesh import sharding
from nt_jax.train.tune import make_batcher

# Updates as a share of tune.epochs: the earlier ones are kept on the way, so that a share costs a
# validation, another learning rate a whole fit.
LORA_SHARES = (1.0, 0.5, 0.25)
LORA_GRID = tuple((rate, share) for rate in (1e-3, 3e-3, 3e-4, 1e-2, 1e-4) for share in LORA_SHARES)


def lora() -> Method:
    """Low-rank changes of all down projections, by the outer likelihoods on the outer batches."""

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        adapter: Adapter = {}
        wanted = updates(setting["share"], data.config.tune.epochs)
        for name, value in learned.items():
            kept, leaf, side = name.split("/")
            if int(kept) == wanted:
                adapter.setdefault(leaf, {})[side] = jnp.asarray(value)
        if not adapter:
            raise UnusableSettingError(f"LoRA diverged before update {wanted}.")
        options = LoraOptions()
        changed = merged(data.model.lm, adapter, options.alpha / options.rank)
        return ModelUnderTest("lora", dataclasses.replace(data.model, weights=lambda: changed))

    grid = [{"learning_rate": rate, "share": share} for rate, share in LORA_GRID]
    return Method("lora", METHODS["lora"].label, _fit_lora, build, grid, ("learning_rate",))


def _fit_lora(data: FittingData, setting: Setting, folder: Path) -> Learned:
    """The adapter after each share of the updates, as "updates/leaf/side"."""
    tune, lm = data.config.tune, data.model.lm
    # Its loss knows no margin, and no inner loop that rows would be kept apart for.
    plain = tune.model_copy(update={"margin_weight": 0.0, "inner_steps": 0})
    model, seed = data.model, data.config.seed
    layers = model.checkpoint.config.layers
    batcher, remat = make_batcher(lm, layers, model.encode, data.pools, plain, seed)

    def batch_at(step: int) -> Sides:
        batch = batcher.batch(step)
        sides = (batch.global_safety, batch.global_utility)
        return jax.device_put(sides, sharding(lm.mesh, "SB"))

    options = LoraOptions(
        learning_rate=setting["learning_rate"], steps=tune.epochs,
        safety_weight=tune.safety_weight, token_decay=tune.token_decay,
        clip_norm=tune.clip_norm, seed=seed, remat=remat,
    )  # fmt: skip
    ends = {updates(share, tune.epochs) for share in LORA_SHARES}
    learned: Learned = {}
    try:
        for step, (adapter, _) in enumerate(train_lora(lm, batch_at, options), start=1):
            if step not in ends:
                continue
            for leaf, sides in adapter.items():
                for side, value in sides.items():
                    learned[f"{step}/{leaf}/{side}"] = np.asarray(value)
    except RunError as error:
        if not learned:
            raise UnusableSettingError(str(error)) from error
    return learned


def updates(share: float, epochs: int) -> int:
    """How many of a run's updates a share of them is; at least one."""
    return max(1, round(share * epochs))
