"""Continuous decoding: a fixed batch of slots, each at its own place in its own answer.

B slots, S cache columns, R rows of a refill, T own tokens of a row, N of all rows, P columns of a
shared prefix, M new tokens; L layers, D width. A slot's tokens lie in columns 0, 1, 2, ... of its
part of the cache, so a prefix is copied from slot to slot as it is, and columns from `length` on
are never looked at.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from nt_jax.mesh import sharding
from nt_jax.models.transformer import LanguageModel

Cache = tuple[Array, Array]  # keys, values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """Everything that decoding changes, as one pytree."""

    keys_LBKHS: Array  # in the dtype of the model; columns last, so that scores need no transpose
    values_LBKSH: Array
    length_B: Array  # int32: tokens in the cache
    last_B: Array  # int32: the token that was picked last and is not in the cache yet
    row_B: Array  # int32: the prompt's stream, which its sampling key is made from
    count_B: Array  # int32: tokens picked so far
    live_B: Array  # bool: neither ended nor empty
    new_BM: Array  # int32: the tokens picked so far
    steer_BLD: Array | None = None  # float32: what each layer's output is moved by; None: nothing

    @property
    def cache(self) -> Cache:
        """(keys, values)."""
        return self.keys_LBKHS, self.values_LBKSH

    @property
    def room(self) -> int:
        """S."""
        return self.values_LBKSH.shape[3]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """Prompts that enter slots together, int32 but for `steer_RLD`.

    Their own tokens lie one after the other, so that only attention sees padding. Surplus tokens
    and rows repeat the first one.
    """

    token_N: Array
    of_N: Array  # the row that a token belongs to
    place_N: Array  # and which of its own tokens it is
    index_RT: Array  # where in N each own token of a row is; anything past its end
    length_R: Array  # own tokens
    shared_R: Array  # tokens before them, which the slot `source_R` already holds
    source_R: Array
    slot_R: Array  # where the row goes
    row_R: Array  # number of its prompt
    steer_RLD: Array | None = None  # float32, see Slots


def empty_slots(
    lm: LanguageModel, batch: int, room: int, max_new: int, steered: bool = False
) -> Slots:
    """`batch` slots of `room` cache columns, none of them live."""
    config, dtype = lm.config, lm.module().embed[...].dtype
    lead = (config.layers, batch, config.kv_heads)

    def zeros(shape: tuple[int, ...], dtype, letters: str = "B") -> Array:
        return jnp.zeros(shape, dtype, device=sharding(lm.mesh, letters))

    keys = zeros((*lead, config.head_dim, room), dtype, "LBK")
    values = zeros((*lead, room, config.head_dim), dtype, "LBK")
    length_B, last_B, row_B, count_B = (zeros((batch,), jnp.int32) for _ in range(4))
    live_B, new_BM = zeros((batch,), bool), zeros((batch, max_new), jnp.int32)
    steer_BLD = zeros((batch, config.layers, config.width), jnp.float32) if steered else None
    return Slots(keys, values, length_B, last_B, row_B, count_B, live_B, new_BM, steer_BLD)


@functools.partial(jax.jit, static_argnames="room")
def grow(lm: LanguageModel, slots: Slots, room: int) -> Slots:
    """The same slots with `room` cache columns, no fewer than before."""
    none, more = (0, 0), (0, room - slots.room)
    keys = jnp.pad(slots.keys_LBKHS, (none, none, none, none, more))
    values = jnp.pad(slots.values_LBKSH, (none, none, none, more, none))
    return placed(lm, dataclasses.replace(slots, keys_LBKHS=keys, values_LBKSH=values))


@jax.jit
def choose(lm: LanguageModel, slots: Slots, slot_R: Array) -> Slots:
    """Only the slots of these numbers."""
    keys, values = (jnp.take(part, slot_R, axis=1) for part in slots.cache)
    rest = [getattr(slots, field.name) for field in dataclasses.fields(slots)[2:]]
    rest = jax.tree.map(lambda part: jnp.take(part, slot_R, axis=0), rest)
    return placed(lm, Slots(keys, values, *rest))


@functools.partial(jax.jit, static_argnames="width")
def prefixes(slots: Slots, source_R: Array, width: int) -> Cache:
    """The first `width` columns of these slots: [L, R, K, H, P] and [L, R, K, P, H]."""
    keys, values = slots.keys_LBKHS[..., :width], slots.values_LBKSH[:, :, :, :width]
    return jnp.take(keys, source_R, axis=1), jnp.take(values, source_R, axis=1)


@functools.partial(jax.jit, donate_argnames="slots")
def insert(
    lm: LanguageModel,
    slots: Slots,
    packed: Packed,
    prefix: Cache,
    own: Cache,
    first_R: Array,
    max_new: Array,
) -> Slots:
    """`slots` with what `prefill` made in the slots `slot_R`, which live for `max_new` tokens.

    A slot may be named twice with equal contents. Columns past a row's end are overwritten as well:
    they hold nothing that is in use, and shared_R + T must not exceed S.
    """
    slot_R, shared_R = packed.slot_R, packed.shared_R
    # A row may go to any device's slots. Said here, the rows are gathered once; else once a row.
    everywhere = sharding(lm.mesh, "LTK")
    prefix, own = jax.lax.with_sharding_constraint((prefix, own), everywhere)

    def put(row: Array, cache: Cache) -> Cache:
        def window(part: Array) -> Array:
            return jax.lax.dynamic_slice_in_dim(part, row, 1, axis=1)

        zero, slot = jnp.int32(0), slot_R[row]
        keys, values = cache
        put_at = jax.lax.dynamic_update_slice
        for start, (new_keys, new_values) in ((zero, prefix), (shared_R[row], own)):
            keys = put_at(keys, window(new_keys), (zero, slot, zero, zero, start))
            values = put_at(values, window(new_values), (zero, slot, zero, start, zero))
        return keys, values

    keys, values = jax.lax.fori_loop(0, len(slot_R), put, slots.cache)
    ended_R = is_eos(lm, first_R) | (max_new <= 1)
    steer_BLD = slots.steer_BLD
    if steer_BLD is not None:
        steer_BLD = steer_BLD.at[slot_R].set(packed.steer_RLD)
    made = Slots(
        keys,
        values,
        slots.length_B.at[slot_R].set(shared_R + packed.length_R),
        slots.last_B.at[slot_R].set(first_R),
        slots.row_B.at[slot_R].set(packed.row_R),
        slots.count_B.at[slot_R].set(1),
        slots.live_B.at[slot_R].set(~ended_R),
        slots.new_BM.at[slot_R, 0].set(first_R),
        steer_BLD,
    )
    return placed(lm, made)


def is_eos(lm: LanguageModel, token_B: Array) -> Array:
    """Whether each token ends its answer."""
    eos_E = jnp.asarray(lm.config.eos_ids or (-1,), jnp.int32)  # -1: a model that never ends
    return (token_B[:, None] == eos_E[None]).any(axis=1)


def placed(lm: LanguageModel, slots: Slots) -> Slots:
    """Every part where `empty_slots` put it: one that drifts would compile its program anew."""

    def put(part: Array, letters: str) -> Array:
        return jax.lax.with_sharding_constraint(part, sharding(lm.mesh, letters))

    cache = [put(part, "LBK") for part in slots.cache]
    rest = [getattr(slots, field.name) for field in dataclasses.fields(slots)[2:]]
    return Slots(*cache, *jax.tree.map(lambda part: put(part, "B"), rest))
