"""The programs of continuous decoding: a fixed batch of slots, each at its own place in its answer.

B slots, S cache columns, R rows of a refill, T their own tokens, P columns of a shared prefix,
M new tokens. A slot's tokens lie in columns 0, 1, 2, ... of its part of the cache, so a prefix is
copied from slot to slot as it is, and columns from `length` on are never looked at.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from nt_jax.mesh import sharding
from nt_jax.models.rope import rotary_tables
from nt_jax.models.transformer import LanguageModel, attend, run_block, unembed

Cache = tuple[Array, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """Everything that decoding changes, as one pytree."""

    keys_LBKSH: Array  # in the dtype of the model; a head's keys lie side by side, see `decode`
    values_LBKSH: Array
    length_B: Array  # int32: tokens in the cache
    last_B: Array  # int32: the token that was picked last and is not in the cache yet
    row_B: Array  # int32: the prompt's number, which its sampling key is made from
    count_B: Array  # int32: tokens picked so far
    live_B: Array  # bool: neither ended nor empty
    new_BM: Array  # int32: the tokens picked so far

    @property
    def cache(self) -> Cache:
        """(keys, values)."""
        return self.keys_LBKSH, self.values_LBKSH


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a token is picked: greedy at temperature 0, else drawn from the tempered softmax."""

    temperature: float = 0.0
    seed: int = 0


GREEDY = Sampling()


def empty_slots(lm: LanguageModel, batch: int, room: int, max_new: int) -> Slots:
    """`batch` slots of `room` cache columns, none of them live."""
    config, dtype = lm.config, lm.module().embed[...].dtype
    shape = (config.layers, batch, config.kv_heads, room, config.head_dim)
    cache = [jnp.zeros(shape, dtype, device=sharding(lm.mesh, "LBKSH")) for _ in range(2)]
    zero = [jnp.zeros(batch, jnp.int32) for _ in range(4)]
    return Slots(*cache, *zero, jnp.zeros(batch, bool), jnp.zeros((batch, max_new), jnp.int32))


@functools.partial(jax.jit, static_argnames="room")
def resize(slots: Slots, room: int) -> Slots:
    """The same slots with `room` cache columns; columns that are cut off must not be in use."""
    more = max(0, room - slots.keys_LBKSH.shape[3])
    pad = ((0, 0), (0, 0), (0, 0), (0, more), (0, 0))
    keys, values = (jnp.pad(part[:, :, :, :room], pad) for part in slots.cache)
    return dataclasses.replace(slots, keys_LBKSH=keys, values_LBKSH=values)


@jax.jit
def choose(slots: Slots, slot_R: Array) -> Slots:
    """Only the slots of these numbers."""
    keys, values = (jnp.take(part, slot_R, axis=1) for part in slots.cache)
    rest = [getattr(slots, field.name) for field in dataclasses.fields(slots)[2:]]
    return Slots(keys, values, *(jnp.take(part, slot_R, axis=0) for part in rest))


@functools.partial(jax.jit, static_argnames="width")
def prefixes(slots: Slots, source_R: Array, width: int) -> Cache:
    """The first `width` columns of these slots, [L, R, K, P, H] each."""
    keys, values = (jnp.take(part[:, :, :, :width], source_R, axis=1) for part in slots.cache)
    return keys, values


@functools.partial(jax.jit, static_argnames="sampling")
def prefill(
    lm: LanguageModel,
    scale_LF: Array,
    token_RT: Int[Array, "R T"],
    length_R: Int[Array, " R"],
    prefix: Cache,
    shared_R: Int[Array, " R"],
    row_R: Int[Array, " R"],
    sampling: Sampling,
) -> tuple[Array, Cache]:
    """(first new token [R], keys and values of the rows' own tokens [L, R, K, T, H]).

    A row is the first `shared_R` columns of its prefix and then its first `length_R` tokens.
    """
    model, config = lm.module(scale_LF), lm.config
    rows, width = token_RT.shape
    graphdef, stacked = nnx.split(model.blocks)
    position_RT = shared_R[:, None] + jnp.arange(width, dtype=jnp.int32)[None]
    rotary = rotary_tables(position_RT, config.rope, config.head_dim, model.embed[...].dtype)
    columns = jnp.arange(prefix[0].shape[3], dtype=jnp.int32)
    shared_RTP = jnp.broadcast_to(
        columns[None, None] < shared_R[:, None, None], (rows, width, len(columns))
    )
    own_RTT = jnp.broadcast_to(jnp.tril(jnp.ones((width, width), bool))[None], (rows, width, width))

    def layer(x_RTD: Array, per_layer: tuple):
        state, past_keys_RKPH, past_values_RKPH = per_layer
        own: list[Array] = []

        def mix(q: Array, k: Array, v: Array) -> Array:
            own.extend((k.swapaxes(1, 2), v.swapaxes(1, 2)))
            keys, values = past_keys_RKPH.swapaxes(1, 2), past_values_RKPH.swapaxes(1, 2)
            return attend(q, [keys, k], [values, v], [shared_RTP, own_RTT])

        x_RTD, _ = run_block(nnx.merge(graphdef, state), x_RTD, rotary, config.rms_eps, mix)
        return x_RTD, (own[0], own[1])

    x_RTD = jnp.take(model.embed[...], token_RT, axis=0)
    x_RTD, own = jax.lax.scan(layer, x_RTD, (stacked, *prefix))
    x_R1D = jnp.take_along_axis(x_RTD, (length_R - 1)[:, None, None], axis=1)
    logits_RV = unembed(model, x_R1D, config.rms_eps)[:, 0]
    return pick(logits_RV, sampling, row_R, jnp.zeros_like(row_R)), own


@functools.partial(jax.jit, donate_argnames="slots")
def insert(
    lm: LanguageModel,
    slots: Slots,
    slot_R: Array,
    prefix: Cache,
    shared_R: Array,
    own: Cache,
    length_R: Array,
    first_R: Array,
    row_R: Array,
) -> Slots:
    """`slots` with what `prefill` made in the slots of these numbers, which start to live.

    A number may occur twice with equal contents. Columns past a row's end are overwritten as well:
    they hold nothing that is in use, and shared_R + T must not exceed S.
    """

    def put(row: Array, cache: Cache) -> Cache:
        def window(part: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(part, row, 1, axis=1)

        zero, slot = jnp.int32(0), slot_R[row]
        for start, stretch in ((zero, prefix), (shared_R[row], own)):
            cache = tuple(
                jax.lax.dynamic_update_slice(part, window(new), (zero, slot, zero, start, zero))
                for part, new in zip(cache, stretch, strict=True)
            )
        return cache

    keys, values = jax.lax.fori_loop(0, len(slot_R), put, slots.cache)
    ended_R = is_eos(lm, first_R) | (slots.new_BM.shape[1] <= 1)
    return Slots(
        *_placed(lm, (keys, values)),
        slots.length_B.at[slot_R].set(shared_R + length_R),
        slots.last_B.at[slot_R].set(first_R),
        slots.row_B.at[slot_R].set(row_R),
        slots.count_B.at[slot_R].set(1),
        slots.live_B.at[slot_R].set(~ended_R),
        slots.new_BM.at[slot_R, 0].set(first_R),
    )


@functools.partial(jax.jit, static_argnames="sampling", donate_argnames="slots")
def decode(
    lm: LanguageModel,
    scale_LF: Array,
    slots: Slots,
    steps: Array,
    enough: Array,
    sampling: Sampling,
) -> Slots:
    """At most `steps` more tokens for every live slot.

    Stops early when no more than `enough` slots are live or one has no cache column left. A live
    slot ends with an EOS, which is kept as its last new token, or with M new tokens.
    """
    model, config = lm.module(scale_LF), lm.config
    batch, max_new = slots.new_BM.shape
    room, slot_B = slots.keys_LBKSH.shape[3], jnp.arange(batch, dtype=jnp.int32)

    def more(carry: tuple[Array, Slots]) -> Array:
        step, now = carry
        longest = jnp.where(now.live_B, now.length_B, 0).max()
        return (step < steps) & (now.live_B.sum(dtype=jnp.int32) > enough) & (longest < room)

    def advance(carry: tuple[Array, Slots]) -> tuple[Array, Slots]:
        step, now = carry
        live_B = now.live_B
        x_B1D, cache = _one_token(lm, model, now)
        logits_BV = unembed(model, x_B1D, config.rms_eps)[:, 0]
        next_B = jnp.where(live_B, pick(logits_BV, sampling, now.row_B, now.count_B), now.last_B)
        column_B = jnp.where(live_B, now.count_B, max_new)  # past the end: dropped
        new_BM = now.new_BM.at[slot_B, column_B].set(next_B, mode="drop")
        length_B, count_B = (n + live_B.astype(jnp.int32) for n in (now.length_B, now.count_B))
        still_B = live_B & ~is_eos(lm, next_B) & (count_B < max_new)
        return step + 1, Slots(*cache, length_B, next_B, now.row_B, count_B, still_B, new_BM)

    _, slots = jax.lax.while_loop(more, advance, (jnp.int32(0), slots))
    return dataclasses.replace(
        slots, **dict(zip(("keys_LBKSH", "values_LBKSH"), _placed(lm, slots.cache), strict=True))
    )


def _one_token(lm: LanguageModel, model, slots: Slots) -> tuple[Array, Cache]:
    """(x_B1D after the last layer, cache) for the last token of each slot, written at its column.

    The cache is a loop carry that is written in place; a scan output would copy it every token.
    Slots that are not live write nothing: what they hold may still serve as a prefix.
    """
    config, dtype = lm.config, model.embed[...].dtype
    graphdef, stacked = nnx.split(model.blocks)
    rotary = rotary_tables(slots.length_B[:, None], config.rope, config.head_dim, dtype)
    batch, room = len(slots.length_B), slots.keys_LBKSH.shape[3]
    column_B = jnp.where(slots.live_B, slots.length_B, room)  # past the end: dropped
    slot_B1 = jnp.arange(batch, dtype=jnp.int32)[:, None]
    head_1K = jnp.arange(config.kv_heads, dtype=jnp.int32)[None]
    mask_B1S = jnp.arange(room, dtype=jnp.int32)[None, None] <= slots.length_B[:, None, None]

    def layer(carry: tuple, per_layer: tuple):
        x_B1D, cache = carry
        index, state = per_layer

        def mix(q: Array, k: Array, v: Array) -> Array:
            nonlocal cache
            at = (index, slot_B1, head_1K, column_B[:, None])
            cache = tuple(
                part.at[at].set(new[:, 0], mode="drop", unique_indices=True)
                for part, new in zip(cache, (k, v), strict=True)
            )
            keys, values = (
                jax.lax.dynamic_index_in_dim(part, index, keepdims=False).swapaxes(1, 2)
                for part in cache
            )
            return attend(q, [keys], [values], [mask_B1S])

        x_B1D, _ = run_block(nnx.merge(graphdef, state), x_B1D, rotary, config.rms_eps, mix)
        return (x_B1D, cache), None

    x_B1D = jnp.take(model.embed[...], slots.last_B, axis=0)[:, None]
    layers = jnp.arange(config.layers, dtype=jnp.int32)
    (x_B1D, cache), _ = jax.lax.scan(layer, (x_B1D, slots.cache), (layers, stacked))
    return x_B1D, cache


def pick(logits_BV: Array, sampling: Sampling, row_B: Array, step_B: Array) -> Array:
    """The next token of each row, int32 [B]; a draw depends on seed, row and step, not on B."""
    if sampling.temperature == 0.0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    key = jax.random.key(sampling.seed)

    def draw(logits_V: Array, row: Array, step: Array) -> Array:
        own = jax.random.fold_in(jax.random.fold_in(key, row), step)
        return jax.random.categorical(own, logits_V / sampling.temperature).astype(jnp.int32)

    return jax.vmap(draw)(logits_BV, row_B, step_B)


def is_eos(lm: LanguageModel, token_B: Array) -> Array:
    """Whether each token ends its answer."""
    eos_E = jnp.asarray(lm.config.eos_ids or (-1,), jnp.int32)  # -1: a model that never ends
    return (token_B[:, None] == eos_E[None]).any(axis=1)


def _placed(lm: LanguageModel, cache: Cache) -> Cache:
    """The cache where `empty_slots` put it, or its placement could drift and compile anew."""
    keys, values = (
        jax.lax.with_sharding_constraint(part, sharding(lm.mesh, "LBKSH")) for part in cache
    )
    return keys, values
