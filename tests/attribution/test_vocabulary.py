"""The tokens that a neuron promotes, against the projection written out."""

import jax.numpy as jnp
import numpy as np

from nt_jax.attribution.vocabulary import promoted_tokens
from tests import plain


def test_promoted_tokens_are_the_head_of_the_normed_column():
    lm = plain.random_model(plain.CONFIG, jnp.float32)
    module = lm.module()
    down_LFD = np.asarray(module.blocks.mlp.down[...])
    table_VD = module.embed[...] if module.head is None else module.head[...].T
    layer_N, index_N = np.array([0, 1, 1]), np.array([3, 0, 5])
    found = promoted_tokens(lm, layer_N, index_N, np.array([1.0, -0.5, 0.0]), 4)
    for row, layer, index, sign in zip(found, layer_N, index_N, (1, -1, 1), strict=True):
        logits_V = np.asarray(table_VD) @ (
            down_LFD[layer, index] * np.asarray(module.final_norm[...])
        )
        assert row.tolist() == np.argsort(-sign * logits_V, kind="stable")[:4].tolist()
