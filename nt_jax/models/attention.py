"""Softmax attention over stretches of keys; many queries in parts, so that memory grows with them.

Letters are those of transformer.py; P queries of a part.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nt_jax.models.precision import wide_dtype

PART = 512  # queries attended together where there are more than WHOLE
WHOLE = 1024
# The number of the first of P queries, and P, to which keys each of them may see, [B, P or 1, S].
Sees = Callable[[Array, int], Bool[Array, "B P S"]]
# `attend`, or what computes the same.
Attend = Callable[[Array, Sequence[Array], Sequence[Array], Sequence[Sees]], Array]


def together(length: int) -> int:
    """Queries attended together of so many: all, or as many in every part, PART at most."""
    return length if length <= WHOLE else -(-length // -(-length // PART))


def stored(length: int) -> int:
    """Scores that each of so many queries keeps for the way back: a row of them, in parts none."""
    return length if together(length) == length else 0


def given(mask_BTS: Bool[Array, "B T S"]) -> Sees:
    """What queries see by a mask that is there as a whole."""
    return lambda first, count: of_queries(mask_BTS, first, count)


def equally(mask_BS: Bool[Array, "B S"]) -> Sees:
    """The same keys for all queries of a sequence."""
    return lambda first, count: mask_BS[:, None]


def causal(mask_BT: Bool[Array, "B T"]) -> Sees:
    """Real tokens that do not come after the query."""

    def sees(first: Array, count: int) -> Array:
        return earlier(first, count, mask_BT.shape[1])[None] & mask_BT[:, None, :]

    return sees


def laid(part_BT: Array, above_BT: Array) -> Sees:
    """Rows laid end to end (data/packing.py): what came before in part 0, its own, that above."""

    def sees(first: Array, count: int) -> Array:
        own_BP, above_BP = (of_queries(leaf_BT, first, count) for leaf_BT in (part_BT, above_BT))
        key_B1T = part_BT[:, None, :]
        mine = (key_B1T == 0) | (key_B1T == own_BP[..., None]) | (key_B1T == above_BP[..., None])
        return mine & earlier(first, count, part_BT.shape[1])[None]

    return sees


def queries(first: Array, count: int, length: int) -> Array:
    """Numbers of a part's queries; the last one again for those that only fill it."""
    return jnp.minimum(first + jnp.arange(count, dtype=jnp.int32), length - 1)


def of_queries(leaf_BT: Array, first: Array, count: int) -> Array:
    """What [B, T, ...] holds of a part's queries."""
    length = leaf_BT.shape[1]
    return leaf_BT if count == length else jnp.take(leaf_BT, queries(first, count, length), axis=1)


def earlier(first: Array, count: int, length: int) -> Bool[Array, "P T"]:
    """Whether a key does not come after a query of the part."""
    key_T = jnp.arange(length, dtype=jnp.int32)
    return key_T[None] <= queries(first, count, length)[:, None]


def attend(
    q_BTNH: Array, keys: Sequence[Array], values: Sequence[Array], sees: Sequence[Sees]
) -> Float[Array, "B T N H"]:
    """Softmax attention of q over several stretches of keys, each [B, S, K, H].

    `sees` says which keys of a stretch queries see. Stretches are scored apart and share one
    softmax, so a prefix that many rows share is never copied per row, and no score is moved: what
    they sum to divides the mixed values. A query that may see nothing gets the mean value, not NaN.
    More than WHOLE queries are taken in parts, one after the other, whose scores the way back makes
    again.
    """
    batch, length, *heads = q_BTNH.shape
    size = together(length)
    if size == length:
        return _attend(q_BTNH, keys, values, [rule(jnp.int32(0), length) for rule in sees])

    def part(args: tuple[Array, Array]) -> Array:
        # Tied to the queries, a mask is made when they are: nothing gathers those of all parts.
        first, q_BPNH = jax.lax.optimization_barrier(args)
        return _attend(q_BPNH, keys, values, [rule(first, size) for rule in sees])

    parts = -(-length // size)
    filled = jnp.pad(q_BTNH, ((0, 0), (0, parts * size - length), (0, 0), (0, 0)))
    first = size * jnp.arange(parts, dtype=jnp.int32)
    q = jnp.moveaxis(filled.reshape(batch, parts, size, *heads), 1, 0)
    out = jax.lax.map(jax.checkpoint(part, prevent_cse=False), (first, q))
    return jnp.moveaxis(out, 0, 1).reshape(batch, parts * size, *heads)[:, :length]


def _attend(
    q_BTNH: Array, keys: Sequence[Array], values: Sequence[Array], masks: Sequence[Array]
) -> Array:
    batch, length, heads, head_dim = q_BTNH.shape
    kv_heads = keys[0].shape[2]
    q_BTKGH = q_BTNH.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    wide = wide_dtype(q_BTNH.dtype)
    least, scores = jnp.finfo(wide).min, []
    for k_BSKH, mask_BTS in zip(keys, masks, strict=True):
        part = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH).astype(wide) * head_dim**-0.5
        scores.append(jnp.where(mask_BTS[:, None, None], part, least))
    tops = [part.max(axis=-1, keepdims=True, initial=least) for part in scores]
    # It cancels, so it has no part in a derivative of any order.
    top_BKGT1 = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))
    out_BTKGH, total_BKGT = jnp.zeros(q_BTKGH.shape, wide), jnp.zeros((), wide)
    for part, v_BSKH in zip(scores, values, strict=True):
        odds_BKGTS = jnp.exp(part - top_BKGT1)
        total_BKGT = total_BKGT + odds_BKGTS.sum(axis=-1)
        odds_BKGTS = odds_BKGTS.astype(q_BTNH.dtype)
        mixed_BTKGH = jnp.einsum("BKGTS,BSKH->BTKGH", odds_BKGTS, v_BSKH)
        out_BTKGH = out_BTKGH + mixed_BTKGH.astype(wide)
    out_BTKGH = out_BTKGH / jnp.moveaxis(total_BKGT, 3, 1)[..., None]
    return out_BTKGH.astype(q_BTNH.dtype).reshape(batch, length, heads, head_dim)
