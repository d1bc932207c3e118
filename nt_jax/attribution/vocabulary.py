"""What a neuron says: the vocabulary tokens that its output column promotes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from nt_jax.models.transformer import LanguageModel, unembed


@jax.jit
def column_logits(lm: LanguageModel, layer: Array, index: Array) -> Array:
    """logits_V of one neuron's column of the down projection, read as a residual stream.

    The final norm divides by the column's own length, so neurons of any layer are comparable.
    """
    down_LFD = lm.module().blocks.mlp.down[...]
    return unembed(lm.module(), down_LFD[layer, index][None, None], lm.config.rms_eps)[0, 0]


def promoted_tokens(
    lm: LanguageModel, layer_N: np.ndarray, index_N: np.ndarray, sign_N: np.ndarray, count: int
) -> Int[np.ndarray, "N count"]:
    """Ids of the `count` tokens that each neuron promotes most, the strongest first.

    sign_N is the sign of the neuron's activation: a negative one promotes what its column opposes.
    """
    found = []
    for layer, index, sign in zip(layer_N, index_N, sign_N, strict=True):
        logits_V = column_logits(lm, jnp.int32(layer), jnp.int32(index))
        found.append(jax.lax.top_k(logits_V * (1.0 if sign >= 0 else -1.0), count)[1])
    return np.asarray(jax.device_get(found)).reshape(len(found), count)
