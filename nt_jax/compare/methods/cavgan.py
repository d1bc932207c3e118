"""CAVGAN on a run's data: the layer and threshold that tell validation prompts apart best.

The grid holds the published setting first; the search takes as many from the front as it may.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nt_jax.baselines.cavgan import Cavgan, CavganFit, CavganOptions, fit_cavgan, fresh_gan
from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.method import Learned, Method, Setting
from nt_jax.config.registry import METHODS
from nt_jax.eval.under_test import ModelUnderTest

# None: the threshold that tells validation prompts apart best; 0.9 is the port's.
CAVGAN_P0 = (
    None, 0.9, 0.5, 0.99, 0.7, 0.3, 0.1, 0.97, 0.999, 0.8, 0.6, 0.95, 0.2, 0.4, 0.9999,
)  # fmt: skip
SCALING = ("mean_D", "deviation_D")


def cavgan() -> Method:
    """The discriminator of the layer that tells validation prompts apart best, at several p0."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        lm, config = data.model.lm, data.config
        options = CavganOptions(seed=config.seed, batch_size=config.eval.batch_size)
        found = fit_cavgan(lm, lm.ones_LF, data.examples, data.validation_examples, options)
        leaves = enumerate(jax.tree.leaves(found.discriminator))
        names = ("layer", "threshold", *SCALING)
        fields = {name: np.asarray(getattr(found, name)) for name in names}
        return {f"d{n}": np.asarray(leaf) for n, leaf in leaves} | fields

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        model, config = data.model, data.config
        gan, graph, _ = fresh_gan(model.checkpoint.config.width, config.seed)
        structure = jax.tree.structure(gan.discriminator)
        leaves = [jnp.asarray(learned[f"d{n}"]) for n in range(structure.num_leaves)]
        p0 = learned["threshold"] if setting["p0"] is None else setting["p0"]
        state, scaling = jax.tree.unflatten(structure, leaves), [learned[x] for x in SCALING]
        found = CavganFit(int(learned["layer"]), float(p0), state, graph, *scaling, table=[])
        steer = Cavgan(found, model.encode, config.eval.batch_size)
        return ModelUnderTest("cavgan", model, intervention=steer)

    grid = [{"p0": p0} for p0 in CAVGAN_P0]
    return Method("cavgan", METHODS["cavgan"].label, fit, build, grid)
