"""The preconditioner of the outer update, and the first move along what it leaves.

P chosen neurons, M rows: slopes (nt_jax/train/slopes.py) that the factors should not follow. G_MP
holds those of harmless requests, of good answers and of refusals, and how those of harmful requests
differ among each other.

The gradient of a safety loss mostly points where the model refuses everybody a little more: to
first order a step along it raises refusals of harmless requests as much as of harmful ones, and
losses on harmless answers hardly notice before it has happened. Dividing the gradient by
F + lambda I, with F = G'G / M (natural gradient; with the difference of the cells in place of a
gradient, Fisher's linear discriminant), makes every such direction expensive; what is left tells
the two apart.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax.train.slopes import CellSlopes


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


def separating(
    slopes: CellSlopes, preconditioner: Preconditioner
) -> tuple[Float[Array, " P"], float]:
    """(the direction that tells harmful from harmless requests, its gain).

    At a root mean square of 1; the gain is by how many nats per token it widens the gap between
    their refusals, to first order. It says how far factors of this model, and of these neurons,
    have to go: a step in nats is the same step for few neurons as for many.
    """
    difference_P = jnp.asarray(slopes.difference_P)
    way_P = unit_rms(preconditioner.divide(difference_P))
    return way_P, float(difference_P @ way_P)


def unit_rms(direction_P: Any) -> Any:
    """`direction_P` at a root mean square of 1; zeros stay zeros."""
    mean_square = jnp.mean(jnp.square(direction_P))
    return direction_P * jax.lax.rsqrt(jnp.maximum(mean_square, jnp.finfo(jnp.float32).tiny))
