"""Attention that keeps its scores to itself, by cuDNN, for what is differentiated once at most.

`jax.nn.dot_product_attention` brings the kernels. They have no second derivative, so meta-steps
take `attend` of attention.py, as do all other devices, and all where the environment variable
NT_JAX_ATTENTION is `plain`. Letters are those of attention.py.
"""

import functools
import logging
import os
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax import processes
from nt_jax.mesh import from_ampere_on
from nt_jax.models.attention import WHOLE, Attend, Sees, attend, equally, given
from nt_jax.models.transformer import LanguageModel

Library = Literal["cudnn", "xla"]  # the second, which writes scores, for tests
WIDEST = 128  # head dim of the kernels; they take multiples of 8
VARIABLE, PLAIN = "NT_JAX_ATTENTION", "plain"
REFUSED = (
    "jax's fused attention cannot be used here (%s): runs take the plain one, "
    "with the same results, about a seventh slower."
)
LENGTHS = 151, 70  # of a trial's rows, and of what they share: odd, and more than a tile
NEAR = 0.03  # of the largest value, by which 16 bits may differ


def attention_of(lm: LanguageModel) -> Attend:
    """What `attend` computes, fused where the model's devices can."""
    return attend_fused if is_fused(lm) else attend


def is_fused(lm: LanguageModel) -> bool:
    """Whether: NVIDIA's GPUs from compute capability 8.0 on, 16 bits, and a trial that agrees.

    Several processes take `attend`, as each would try for itself; so do weights that are shared out
    along fsdp, as jax's rule for parts of a batch does not take rows that lie on two axes.
    """
    config, device = lm.laid_out, lm.mesh.devices.flat[0]
    size = config.head_dim
    fits = lm.dtype.itemsize == 2 and size % 8 == 0 and size <= WIDEST
    if not fits or os.environ.get(VARIABLE) == PLAIN:
        return False
    if lm.mesh.shape["fsdp"] > 1 or not from_ampere_on(lm.mesh):
        return False
    if device not in jax.devices():  # described, to compile for: nothing can be tried
        return True
    return not processes.several() and agrees(lm.dtype, config.heads, config.kv_heads, size)


def attend_fused(
    q_BTNH: Array,
    keys: Sequence[Array],
    values: Sequence[Array],
    sees: Sequence[Sees],
    *,
    implementation: Library = "cudnn",
) -> Float[Array, "B T N H"]:
    """`attend`, whose scores are never written; keys and values are laid end to end for it.

    One query, or more than WHOLE, take `attend`: nothing is gained, or a mask would take too much.
    A query that may see nothing gets a finite value. Where vmap adds an axis to the mask, B is 1.
    """
    batch, length, heads, _ = q_BTNH.shape
    if length == 1 or length > WHOLE:
        return attend(q_BTNH, keys, values, sees)
    masks = [rule(jnp.int32(0), length) for rule in sees]
    seen = max(len(mask) for mask in masks)
    parts = zip(masks, keys, strict=True)
    mask_BTS = jnp.concatenate(
        [jnp.broadcast_to(mask, (seen, length, k.shape[1])) for mask, k in parts], axis=2
    )
    k_BSKH, v_BSKH = (
        jnp.concatenate([jnp.broadcast_to(x, (batch, *x.shape[1:])) for x in each], axis=1)
        for each in (keys, values)
    )
    # The way back asks for even lengths; what fills them is not seen, or cut off again.
    more, past = length % 2, k_BSKH.shape[1] % 2
    q_BTNH, k_BSKH, v_BSKH = _filled(q_BTNH, more), _filled(k_BSKH, past), _filled(v_BSKH, past)
    mask_BTS = jnp.pad(mask_BTS, ((0, 0), (0, more), (0, past)))
    barred = float(jnp.finfo(q_BTNH.dtype).min) / 2  # finite, so that no row of them is NaN
    bias_BNTS = jnp.where(mask_BTS, 0.0, barred).astype(q_BTNH.dtype)[:, None]
    if seen == 1:  # jax's rule for vmap takes a bias for one of every head
        bias_BNTS = jnp.broadcast_to(bias_BNTS, (1, heads, *mask_BTS.shape[1:]))
    out_BTNH = jax.nn.dot_product_attention(
        q_BTNH, k_BSKH, v_BSKH, bias=bias_BNTS, implementation=implementation
    )
    return out_BTNH[:, :length]


def _filled(leaf_BTNH: Array, more: int) -> Array:
    return jnp.pad(leaf_BTNH, ((0, 0), (0, more), (0, 0), (0, 0)))


@functools.cache
def agrees(
    dtype: jnp.dtype, heads: int, kv_heads: int, head_dim: int, implementation: Library = "cudnn"
) -> bool:
    """Whether the fused kernels give, on this machine, what `attend` gives, and its slopes.

    Tried once; a machine where they do not is told of in one line and takes `attend`.
    """
    fused = functools.partial(attend_fused, implementation=implementation)
    try:
        with jax.ensure_compile_time_eval():
            found, expected = (
                _trial(rule, dtype, heads, kv_heads, head_dim) for rule in (fused, attend)
            )
        apart = max(
            float(np.abs(a - b).max() / np.abs(b).max())
            for a, b in zip(found, expected, strict=True)
        )
        problem = f"it is {apart:.2g} of the largest value off" if not apart <= NEAR else ""
    except Exception as error:  # whatever a driver, a card or a library says
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if problem:
        logging.getLogger(__name__).warning(REFUSED, problem[:200])
    return not problem


def _trial(
    rule: Attend, dtype: jnp.dtype, heads: int, kv_heads: int, head_dim: int
) -> list[np.ndarray]:
    """Attention of two rows to what they share and to their own, and its slopes, in float32."""
    draw, length, shared = np.random.default_rng(0), *LENGTHS
    shapes = [(length, heads, head_dim), *[(length, kv_heads, head_dim)] * 2]
    weight, *own = (
        jnp.asarray(draw.standard_normal((2, *shape)), dtype) for shape in shapes[:1] + shapes
    )
    before = 1, shared, kv_heads, head_dim
    past = [jnp.asarray(draw.standard_normal(before), dtype) for _ in range(2)]
    earlier = np.tril(np.ones((length, length), bool))
    seen_RTS = np.stack([earlier, earlier & (np.arange(length) != 1)])

    def attended(weight: Array, own: list[Array], seen_TS: Array) -> tuple[Array, ...]:
        sees = [equally(jnp.ones((1, shared), bool)), given(seen_TS[None])]

        def mixed(q: Array, k: Array, v: Array) -> Array:
            return rule(q[None], [past[0], k[None]], [past[1], v[None]], sees)[0]

        out, pull = jax.vjp(mixed, *own)
        return out, *pull(weight)

    found = jax.jit(jax.vmap(attended))(weight, own, seen_RTS)
    return [np.asarray(each, np.float32) for each in found]
