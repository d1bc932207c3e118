"""The preconditioner of the outer step: what good answers would notice is expensive.

P chosen neurons, M rows: slopes of good answers of harmless requests (nt_jax/train/slopes.py), that
is G_MP. Dividing a gradient by F + lambda I, with F = G'G / M (natural gradient), leaves of it what
moves these answers little.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


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
