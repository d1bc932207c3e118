"""NeST: neurons found by a probe, grouped by what they react to, one shared update a group.

Source: Behrouzi, Wu, Rostami, Sadeghi, "NeST: Neuron Selective Tuning for LLM Safety" (arXiv
2602.16835, v1 February 2026, v2 June 2026). We could read its abstracts and what others write about
it, no code; so this is a reading of it, and what follows says what rests on what.

Facts (abstracts): feed-forward neurons are found by probing activations of bare harmful and
harmless prompts; neurons of like activation profiles are clustered; shared updates of clusters are
trained, the rest of the model is frozen; training sees bare harmful prompts only, no attacks; the
updates are folded into the weights; 0.44 million learned numbers on average over ten models.
From second hand: the probe is linear, one a layer, on maxima over tokens; its weights are
standardised within the layer and cut at a z-score; clusters come from k-means with a look at the
silhouette; the update is a vector added to the rows of W_gate and W_up of a cluster's neurons.
(The same readers find the paper at odds with itself about how activations are normalised and how
many clusters there may be, and one has harmless prompts in training as well.)
Ours: logistic regression with scikit-learn's ridge on standardised maxima; only neurons that fire
for harm, z above 2; clusters within a layer, between 2 and 8 by silhouette; refusals as whole
answers; the batches, schedule, mean and clipping that all adapters share, and a strength dial.

R prompts, L layers, F neurons of a layer, D model width, P chosen neurons, C clusters of them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import optimize

from nt_jax.baselines.adapters import Params
from nt_jax.baselines.clusters import clusters_of
from nt_jax.data.batching import batches_by_length, pad_left
from nt_jax.data.records import Ids
from nt_jax.errors import DataError
from nt_jax.mesh import filled, sharding
from nt_jax.models import layers
from nt_jax.models.attention import attend, causal
from nt_jax.models.config import ModelConfig
from nt_jax.models.precision import wide_dtype
from nt_jax.models.rope import rotary_tables
from nt_jax.models.transformer import LanguageModel, positions

CUT = 2.0  # standard deviations of a layer's probe weights above their mean
MOST_CLUSTERS = 8  # of a layer
GATE, UP = "blocks.mlp.gate", "blocks.mlp.up"


@dataclasses.dataclass(frozen=True)
class Nest:
    """An adapter of nt_jax/baselines/adapters.py: {GATE: [C, D], UP: [C, D]}, tied by cluster."""

    layer: tuple[int, ...]  # of each chosen neuron
    index: tuple[int, ...]  # its place in the layer
    cluster: tuple[int, ...]  # whose update it gets
    first: int = 0

    def targets(self, config: ModelConfig) -> tuple[str, ...]:
        """What enters a neuron."""
        return GATE, UP

    def fresh(self, config: ModelConfig, dtype: Any, seed: int) -> Params:
        """Zeros."""
        shape = max(self.cluster) + 1, config.width
        return {name: jnp.zeros(shape, dtype) for name in (GATE, UP)}

    def felt(self, name: str) -> bool:
        """Always."""
        return True

    def merge(self, leaves: Mapping[str, Array], params: Params) -> dict[str, Array]:
        """Every chosen neuron's column of [L, D, F] plus its cluster's vector."""
        layer_P, index_P, cluster_P = map(np.array, (self.layer, self.index, self.cluster))
        new = {}
        for name, leaf in leaves.items():
            wide = leaf.astype(params[name].dtype)
            wide = wide.at[layer_P, :, index_P].add(params[name][cluster_P])
            new[name] = wide.astype(leaf.dtype)
        return new

    def at_strength(self, params: Params, strength: float) -> Params:
        """The vectors times the strength."""
        return {name: strength * leaf for name, leaf in params.items()}


def find_clusters(
    lm: LanguageModel,
    harmful: Sequence[Ids],
    harmless: Sequence[Ids],
    *,
    seed: int = 0,
    batch_size: int = 16,
) -> Nest:
    """The neurons that tell bare harmful from harmless prompts, in clusters layer by layer."""
    maxima_RLF = gather_maxima(lm, [*harmful, *harmless], batch_size)
    harmful_R = np.arange(len(maxima_RLF)) < len(harmful)
    chosen, count = [], 0
    for layer in range(lm.config.layers):
        maxima_RF = standardised(maxima_RLF[:, layer])
        score_F = standardised(probe(maxima_RF, harmful_R))
        index_N = np.flatnonzero(score_F > CUT)
        if len(index_N):
            cluster_N = clusters_of(maxima_RF[:, index_N].T, MOST_CLUSTERS, seed)
            both = zip(index_N.tolist(), (count + cluster_N).tolist(), strict=True)
            chosen += [(layer, index, cluster) for index, cluster in both]
            count += int(cluster_N.max()) + 1
    if not chosen:
        raise DataError(
            f"NeST finds no neuron: no probe weight lies {CUT:g} standard deviations above its "
            "layer's mean. Give more harmful and harmless training requests."
        )
    layer, index, cluster = zip(*chosen, strict=True)
    return Nest(layer, index, cluster)


def standardised(values: np.ndarray) -> np.ndarray:
    """Less their mean, over their standard deviation, along the first axis; constants become 0."""
    spread = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)


def probe(
    maxima_RF: Float[np.ndarray, "R F"], harmful_R: Bool[np.ndarray, " R"]
) -> Float[np.ndarray, " F"]:
    """Weights of the logistic regression, summed log loss plus half their square, no weight on 1.

    Those of sklearn.linear_model.LogisticRegression at its defaults.
    """
    x_RF, sign_R = maxima_RF.astype(np.float64), np.where(harmful_R, 1.0, -1.0)

    def loss(w_G: np.ndarray) -> tuple[float, np.ndarray]:
        margin_R = sign_R * (x_RF @ w_G[:-1] + w_G[-1])
        pull_R = -sign_R / (1 + np.exp(np.minimum(margin_R, 500)))
        slope_G = np.append(pull_R @ x_RF + w_G[:-1], pull_R.sum())
        return np.logaddexp(0, -margin_R).sum() + w_G[:-1] @ w_G[:-1] / 2, slope_G

    start_G = np.zeros(x_RF.shape[1] + 1)
    found = optimize.minimize(loss, start_G, jac=True, method="L-BFGS-B", tol=1e-8)
    return found.x[:-1]


def gather_maxima(lm: LanguageModel, prompts: Sequence[Ids], batch_size: int) -> np.ndarray:
    """Each neuron's largest value over the tokens of each prompt, float32 [R, L, F]."""
    size, place = lm.config, sharding(lm.mesh, "B")
    found_RLF = np.zeros((len(prompts), size.layers, size.neurons), np.float32)
    batch_size = filled(batch_size, lm.mesh)
    for width, rows in batches_by_length([len(ids) for ids in prompts], batch_size):
        batch = pad_left([prompts[row] for row in rows], width, batch_size)
        maxima_LBF = batch_maxima(lm, *jax.device_put(batch, place))
        found_RLF[rows] = np.asarray(maxima_LBF).transpose(1, 0, 2)[: len(rows)]
    return found_RLF


@jax.jit
def batch_maxima(
    lm: LanguageModel, token_BT: Int[Array, "B T"], mask_BT: Bool[Array, "B T"]
) -> Float[Array, "L B F"]:
    """The largest value of each neuron over a row's tokens."""
    model, config = lm.module(), lm.config
    x_BTD = jnp.take(model.embed[...], token_BT, axis=0)
    rotary = rotary_tables(positions(mask_BT), config.rope, config.head_dim, x_BTD.dtype)

    def layer(x_BTD: Array, block: layers.Block, _: None) -> tuple[Array, Array]:
        mix = lambda q, k, v: attend(q, [k], [v], [causal(mask_BT)])  # noqa: E731
        x_BTD, act_BTF = block(x_BTD, rotary, config.rms_eps, mix)
        act_BTF = act_BTF.astype(wide_dtype(act_BTF.dtype))
        return x_BTD, jnp.where(mask_BT[:, :, None], act_BTF, -jnp.inf).max(axis=1)

    return layers.over_layers(model.blocks, layer, x_BTD)[1]
