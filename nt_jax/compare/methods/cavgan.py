"""CAVGAN on a run's data: the layer and threshold that tell validation prompts apart best.

The grid holds the best guess first; the search takes as many from the front as it may.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nt_jax.baselines.cavgan import (
    DEPTH,
    P0,
    Cavgan,
    CavganFit,
    CavganOptions,
    fit_cavgan,
    fresh_gan,
    layer_at,
)
from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.method import Learned, Method, Setting
from nt_jax.config.registry import METHODS
from nt_jax.eval.under_test import ModelUnderTest

# None: the threshold that tells validation prompts apart best; 0.9 is the port's.
CAVGAN_P0 = (
    None, 0.9, 0.5, 0.99, 0.7, 0.3, 0.1, 0.97, 0.999, 0.8, 0.6, 0.95, 0.2, 0.4, 0.9999,
)  # fmt: skip
SCALING = ("mean_D", "deviation_D")


UNITS = {"p0": "P(harmful)", "layer": "of depth"}


def cavgan() -> Method:
    """The discriminator of the layer that tells validation prompts apart best, at several p0."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        return fitted(data)

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        p0 = learned["threshold"] if setting["p0"] is None else setting["p0"]
        return ModelUnderTest("cavgan", data.model, intervention=defence(data, learned, float(p0)))

    grid = [{"p0": p0} for p0 in CAVGAN_P0]
    return Method("cavgan", METHODS["cavgan"].label, fit, build, grid, units=UNITS)


def cavgan_published() -> Method:
    """The discriminator at the depth and p0 of the port; the authors' code is not out."""
    name = "cavgan_published"

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        return fitted(data, layer_at(DEPTH, data.model.checkpoint.config.layers))

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        steer = defence(data, learned, setting["p0"])
        return ModelUnderTest(name, data.model, intervention=steer)

    only = [{"layer": "{}/{}".format(*DEPTH), "p0": P0}]
    return Method(name, METHODS[name].label, fit, build, only, units=UNITS)


def fitted(data: FittingData, layer: int | None = None) -> Learned:
    """The discriminator of one layer, or of the best from the middle one on, as arrays."""
    lm, config = data.model.lm, data.config
    options = CavganOptions(
        layers=None if layer is None else (layer,),
        seed=config.seed, batch_size=config.eval.batch_size,
    )  # fmt: skip
    found = fit_cavgan(lm, lm.ones_LF, data.examples, data.validation_examples, options)
    leaves = enumerate(jax.tree.leaves(found.discriminator))
    names = ("layer", "threshold", *SCALING)
    fields = {name: np.asarray(getattr(found, name)) for name in names}
    return {f"d{n}": np.asarray(leaf) for n, leaf in leaves} | fields


def defence(data: FittingData, learned: Learned, p0: float) -> Cavgan:
    """The intervention of a learned discriminator: messages above p0 are asked again."""
    model, config = data.model, data.config
    gan, graph, _ = fresh_gan(model.checkpoint.config.width, config.seed)
    structure = jax.tree.structure(gan.discriminator)
    leaves = [jnp.asarray(learned[f"d{n}"]) for n in range(structure.num_leaves)]
    state, scaling = jax.tree.unflatten(structure, leaves), [learned[x] for x in SCALING]
    found = CavganFit(int(learned["layer"]), p0, state, graph, *scaling, table=[])
    return Cavgan(found, model.encode, config.eval.batch_size)
