"""What tells two models' weights apart."""

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.models.leaves import bits_hash

W = np.random.default_rng(0).normal(size=(2, 300, 40)).astype(np.float32)
EDITS = {
    "negated": lambda w: -w,
    "rows exchanged": lambda w: w[:, ::-1],
    "transposed": lambda w: w.swapaxes(1, 2).reshape(w.shape),
    "two elements exchanged": lambda w: _exchanged(w),
    "small edits that cancel in a sum": lambda w: w + np.float32(1e-6) * np.sign(W[::-1]),
    "one bit": lambda w: (w.view(np.uint32) ^ (np.arange(w.size).reshape(w.shape) == 9)).view(
        w.dtype
    ),
}


def _exchanged(w: np.ndarray) -> np.ndarray:
    w = w.copy()
    w[0, 0, 0], w[1, 7, 9] = w[1, 7, 9], w[0, 0, 0]
    return w


@pytest.mark.parametrize("edit", EDITS)
def test_edited_weights_have_another_hash(edit):
    assert bits_hash(jnp.asarray(W)) == bits_hash(jnp.asarray(W.copy()))
    assert bits_hash(jnp.asarray(EDITS[edit](W))) != bits_hash(jnp.asarray(W))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
def test_types_of_other_widths_are_hashed_too(dtype):
    w = jnp.asarray(100 * W).astype(dtype)
    assert bits_hash(w) == bits_hash(w + 0) != bits_hash(-w)
