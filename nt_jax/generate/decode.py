"""The two programs that cost time: prompts to keys, values, first tokens; then token by token.

Letters are those of slots.py.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from nt_jax.generate.decode_attention import attend_by_kernel, attend_plain, key_axis
from nt_jax.generate.slots import Cache, Packed, Slots, is_eos, placed, stack_sizes
from nt_jax.models.attention import attend, causal, equally
from nt_jax.models.layers import Block, NeuronScale, at_layer, over_layers
from nt_jax.models.precision import wide_dtype
from nt_jax.models.rope import rotary_tables
from nt_jax.models.transformer import LanguageModel, unembed


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is picked: greedy at temperature 0, else drawn from the tempered softmax."""

    temperature: float = 0.0
    seed: int = 0


GREEDY = Sampling()


@functools.partial(jax.jit, static_argnames="sampling")
def prefill(
    lm: LanguageModel, blocks: Sequence[Block], packed: Packed, prefix: Cache, sampling: Sampling
) -> tuple[Array, Cache]:
    """(first new token [R], keys and values of own tokens as a `Cache`).

    A row is the first `shared_R` columns of its prefix and then its own tokens. `steer_RLD` moves
    its last token only, so that what others may share stays what it is without. `blocks`: see
    `stacks_of`.
    """
    model, config = lm.module(), lm.config
    rows, width = packed.index_RT.shape
    ways = len(packed.token_WN)

    def grouped(leaf_R: Array) -> Array:
        return leaf_R.reshape(ways, rows // ways, *leaf_R.shape[1:])

    index_WRT, length_WR, shared_WR = map(
        grouped, (packed.index_RT, packed.length_R, packed.shared_R)
    )
    position_WN = jnp.take_along_axis(shared_WR, packed.of_WN, axis=1) + packed.place_WN
    rotary = rotary_tables(position_WN, config.rope, config.head_dim, model.embed[...].dtype)
    columns = jnp.arange(prefix[1][0].shape[3], dtype=jnp.int32)
    sees = [
        equally(columns[None] < packed.shared_R[:, None]),
        causal(jnp.ones((rows, width), bool)),
    ]
    last_WR = jnp.take_along_axis(index_WRT, length_WR[:, :, None] - 1, axis=2)[:, :, 0]

    to_key = (0, 2, 1, 3) if key_axis(lm) == 3 else (0, 2, 3, 1)
    from_key = tuple(np.argsort(to_key).tolist())

    def layer(x_WND: Array, block: Block, per_layer: tuple):
        past_keys, past_values_RKPH, steer_RD = per_layer
        own: list[Array] = []

        def mix(*packed_qkv: Array) -> Array:
            q, k, v = (
                in_groups(part, index_WRT).reshape(rows, width, *part.shape[2:])
                for part in packed_qkv
            )
            own.extend((jnp.transpose(k, to_key), jnp.transpose(v, (0, 2, 1, 3))))
            keys = jnp.transpose(past_keys, from_key)
            values = jnp.transpose(past_values_RKPH, (0, 2, 1, 3))
            out = attend(q, [keys, k], [values, v], sees)
            back = lambda out_RT, of_N, place_N: out_RT[of_N, place_N]  # noqa: E731
            return jax.vmap(back)(grouped(out), packed.of_WN, packed.place_WN)

        x_WND, _ = block(x_WND, rotary, config.rms_eps, mix)
        if steer_RD is not None:
            steered_WRD = steered(in_groups(x_WND, last_WR), grouped(steer_RD))
            x_WND = jax.vmap(lambda x, at, new: x.at[at].set(new))(x_WND, last_WR, steered_WRD)
        return x_WND, (own[0], own[1])

    x_WND = jnp.take(model.embed[...], packed.token_WN, axis=0)
    made: list[tuple[Array, Array]] = []
    steers = in_stacks(lm, packed.steer_RLD)
    for stack, *past, steer in zip(blocks, *prefix, steers, strict=True):
        x_WND, own = over_layers(stack, layer, x_WND, (*past, steer))
        made.append(own)
    keys, values = zip(*made, strict=True)
    last_R1D = in_groups(x_WND, last_WR).reshape(rows, 1, -1)
    logits_RV = unembed(model, last_R1D, config.rms_eps)[:, 0]
    return pick(logits_RV, sampling, packed.row_R, jnp.zeros_like(packed.row_R)), (keys, values)


def in_groups(part_WN: Array, index_W: Array) -> Array:
    """Of each group's tokens those of its own numbers: no device needs another's."""
    return jax.vmap(lambda part, index: jnp.take(part, index, axis=0))(part_WN, index_W)


def stacks_of(lm: LanguageModel, scale_LF: Array) -> tuple[Block, ...]:
    """The layers as decoding takes them, see `stack_sizes`; a copy where there are several."""
    return (lm.module(scale_LF).blocks,) if len(stack_sizes(lm)) == 1 else _split(lm, scale_LF)


@jax.jit
def _split(lm: LanguageModel, scale_LF: Array) -> tuple[Block, ...]:
    graphdef, stacked = nnx.split(lm.module(scale_LF).blocks)
    ends = np.cumsum(stack_sizes(lm)).tolist()
    spans = [slice(end - size, end) for end, size in zip(ends, stack_sizes(lm), strict=True)]
    cut = lambda leaf, span: leaf[span]  # noqa: E731
    return tuple(
        nnx.merge(graphdef, jax.tree.map(functools.partial(cut, span=span), stacked))
        for span in spans
    )


def rescaled(lm: LanguageModel, blocks: Sequence[Block], scale_LF: Array) -> tuple[Block, ...]:
    """What `stacks_of` gave, under other factors; no weight is copied."""
    ends, sizes = np.cumsum(stack_sizes(lm)).tolist(), stack_sizes(lm)
    found = []
    for block, end, size in zip(blocks, ends, sizes, strict=True):
        graphdef, scale, rest = nnx.split(block, NeuronScale, ...)
        part_lF = scale_LF[end - size : end]
        found.append(nnx.merge(graphdef, jax.tree.map(lambda _, new=part_lF: new, scale), rest))
    return tuple(found)


@functools.partial(jax.jit, static_argnames=("width", "sampling"), donate_argnames="slots")
def decode(
    lm: LanguageModel,
    blocks: Sequence[Block],
    slots: Slots,
    steps: Array,
    enough: Array,
    max_new: Array,
    width: int,
    sampling: Sampling,
) -> Slots:
    """At most `steps` more tokens for every live slot, looking at the first `width` columns only.

    Stops early when no more than `enough` slots are live or one has filled `width` columns. A live
    slot ends with an EOS, which is kept as its last new token, or with `max_new` tokens. `blocks`:
    see `stacks_of`.
    """
    model, config = lm.module(), lm.config
    batch, columns = slots.new_BM.shape
    slot_B, steers = jnp.arange(batch, dtype=jnp.int32), in_stacks(lm, slots.steer_BLD)

    def more(carry: tuple[Array, Slots]) -> Array:
        step, now = carry
        longest = jnp.where(now.live_B, now.length_B, 0).max()
        return (step < steps) & (now.live_B.sum(dtype=jnp.int32) > enough) & (longest < width)

    def advance(carry: tuple[Array, Slots]) -> tuple[Array, Slots]:
        step, now = carry
        live_B = now.live_B
        x_B1D, (keys, values) = _one_token(lm, blocks, now, steers, width)
        logits_BV = unembed(model, x_B1D, config.rms_eps)[:, 0]
        next_B = jnp.where(live_B, pick(logits_BV, sampling, now.row_B, now.count_B), now.last_B)
        column_B = jnp.where(live_B, now.count_B, columns)  # past the end: dropped
        new_BM = now.new_BM.at[slot_B, column_B].set(next_B, mode="drop")
        length_B, count_B = (n + live_B.astype(jnp.int32) for n in (now.length_B, now.count_B))
        still_B = live_B & ~is_eos(lm, next_B) & (count_B < max_new)
        return step + 1, dataclasses.replace(
            now, keys=keys, values_LBKSH=values, length_B=length_B, last_B=next_B,
            count_B=count_B, live_B=still_B, new_BM=new_BM,
        )  # fmt: skip

    _, slots = jax.lax.while_loop(more, advance, (jnp.int32(0), slots))
    return placed(lm, slots)


def _one_token(
    lm: LanguageModel,
    blocks: Sequence[Block],
    slots: Slots,
    steers: Sequence[Array | None],
    width: int,
) -> tuple[Array, Cache]:
    """(x_B1D after the last layer, cache) for the last token of each slot, written at its column.

    The cache is a loop carry that is written in place; a scan output would copy it every token.
    Slots that are not live write nothing: what they hold may still serve as a prefix.
    """
    config, embed_VD = lm.laid_out, lm.module().embed[...]
    rotary = rotary_tables(slots.length_B[:, None], config.rope, config.head_dim, embed_VD.dtype)
    lead = (len(slots.length_B), config.kv_heads, config.head_dim)
    slot_B11, head_1K1, dim_11H = jnp.ogrid[tuple(slice(size) for size in lead)]
    column_B11 = jnp.where(slots.live_B, slots.length_B, slots.room)[:, None, None]  # end: dropped
    mask_BS = jnp.arange(width, dtype=jnp.int32)[None] <= slots.length_B[:, None]

    def layer(carry: tuple, block: Block, per_layer: tuple):
        x_B1D, keys, values = carry
        index, steer_BD = per_layer

        def mix(q: Array, k: Array, v: Array) -> Array:
            nonlocal keys, values
            at, set_to = (index, slot_B11, head_1K1), {"mode": "drop", "unique_indices": True}
            values = values.at[(*at, column_B11)].set(v[:, 0][:, :, None], **set_to)
            if key_axis(lm) == 3:
                keys = keys.at[(*at, column_B11)].set(k[:, 0][:, :, None], **set_to)
                now_keys, now_values = at_layer((keys, values), index)
                seen_B = slots.length_B + 1
                out = attend_by_kernel(lm.mesh, q[:, 0], now_keys, now_values, seen_B)
                return out[:, None]
            keys = keys.at[(*at, dim_11H, column_B11)].set(k[:, 0], **set_to)
            now_keys, now_values = at_layer((keys, values), index)
            seen_keys, seen_values = now_keys[..., :width], now_values[:, :, :width]
            return attend_plain(q[:, 0], seen_keys, seen_values, mask_BS)[:, None]

        x_B1D, _ = block(x_B1D, rotary, config.rms_eps, mix)
        if steer_BD is not None:
            x_B1D = steered(x_B1D, steer_BD[:, None])
        return (x_B1D, keys, values), None

    x_B1D = jnp.take(embed_VD, slots.last_B, axis=0)[:, None]
    made: list[tuple[Array, Array]] = []
    for stack, *cache, steer in zip(blocks, slots.keys, slots.values_LBKSH, steers, strict=True):
        xs = (jnp.arange(len(cache[0]), dtype=jnp.int32), steer)
        (x_B1D, *cache), _ = over_layers(stack, layer, (x_B1D, *cache), xs)
        made.append((cache[0], cache[1]))
    keys, values = zip(*made, strict=True)
    return x_B1D, (keys, values)


def in_stacks(lm: LanguageModel, steer_BLD: Array | None) -> Sequence[Array | None]:
    """[l, B, D] of each stack of layers; None stays None, which a scan takes as nothing at all."""
    sizes = stack_sizes(lm)
    if steer_BLD is None:
        return [None] * len(sizes)
    return jnp.split(jnp.swapaxes(steer_BLD, 0, 1), np.cumsum(sizes)[:-1].tolist())


def steered(x: Array, steer: Array) -> Array:
    """The residual stream moved by `steer`, added in float32 or wider, in its own dtype."""
    wide = wide_dtype(x.dtype)
    return (x.astype(wide) + steer.astype(wide)).astype(x.dtype)


def pick(
    logits_BV: Float[Array, "B V"], sampling: Sampling, row_B: Array, step_B: Array
) -> Int[Array, " B"]:
    """The next token of each row, int32 [B]; a draw depends on seed, row and step, not on B."""
    if sampling.temperature == 0.0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    key = jax.random.key(sampling.seed)

    def draw(logits_V: Array, row: Array, step: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, row), step)
        return jax.random.categorical(own, logits_V / sampling.temperature).astype(jnp.int32)

    return jax.vmap(draw)(logits_BV, row_B, step_B)
