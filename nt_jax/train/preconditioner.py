"""The preconditioner of the outer update: what a change of the factors does to harmless requests.

P chosen neurons, M rows: log-likelihoods of answers to harmless requests, of good answers and of
refusals. G_MP holds their slopes in the factors at the untuned model.

The gradient of a safety loss mostly points where the model refuses everybody a little more: to
first order a step along it raises refusals of harmless requests as much as of harmful ones, and
losses on harmless answers hardly notice before it has happened. Dividing the gradient by
F + lambda I, with F = G'G / M (natural gradient), makes every direction that moves harmless
requests expensive; what is left tells the two apart.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax.data.packing import PackedBatch
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.objectives import log_likelihoods, nll, over_stretches
from nt_jax.train.theta import scatter


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Preconditioner:
    """(F + lambda I) in the form in which it can be divided by, F = G'G / M."""

    slope_MP: Array  # G
    root_MM: Array  # lower Cholesky factor of G G' + M lambda I

    def divide(self, g_P: Float[Array, " P"]) -> Float[Array, " P"]:
        """`(1 + F / lambda)^-1 g`: g itself where harmless requests do not care (Woodbury)."""
        inner_M = self.slope_MP @ g_P
        solved_M = jax.scipy.linalg.cho_solve((self.root_MM, True), inner_M)
        return g_P - solved_M @ self.slope_MP


def make_preconditioner(slope_MP: Float[np.ndarray, "M P"], damping: float) -> Preconditioner:
    """That of these slopes; lambda is `damping` times the trace of F, whatever the model."""
    slopes_MP = jnp.asarray(slope_MP)
    gram_MM = slopes_MP @ slopes_MP.T
    ridge = damping * jnp.trace(gram_MM)
    root_MM = jnp.linalg.cholesky(gram_MM + ridge * jnp.eye(len(gram_MM), dtype=gram_MM.dtype))
    return Preconditioner(slopes_MP, root_MM)


@functools.partial(jax.jit, static_argnames="remat")
def row_slopes(
    theta_P: Array,
    lm: LanguageModel,
    neurons: NeuronSet,
    batch: PackedBatch,
    decay: Array | float,
    *,
    remat: bool = False,
) -> Float[Array, "B P"]:
    """Slope of the answer's mean log-likelihood in the factors, of each sequence's only row."""

    def value(theta_P: Array, row: PackedBatch) -> Array:
        scale_LF = scatter(theta_P, neurons, lm.ones_LF)
        alone = jax.tree.map(lambda leaf: leaf[None], row)
        return log_likelihoods(lm, scale_LF, alone, decay=decay, remat=remat)[0, 0, 0]

    return jax.vmap(jax.grad(value), (None, 0))(theta_P, batch)


@functools.partial(jax.jit, static_argnames="remat")
def mean_slope(
    theta_P: Array,
    lm: LanguageModel,
    neurons: NeuronSet,
    batch: PackedBatch,
    decay: Array | float,
    *,
    remat: bool = False,
) -> Float[Array, " P"]:
    """The mean over a set's rows of what `row_slopes` gives for each."""

    def value(theta_P: Array, part: PackedBatch) -> Array:
        return -nll(lm, scatter(theta_P, neurons, lm.ones_LF), part, decay=decay, remat=remat)

    return over_stretches(lambda part: jax.grad(value)(theta_P, part), batch)
