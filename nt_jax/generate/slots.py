"""Continuous decoding: a fixed batch of slots, each at its own place in its own answer.

B slots, S cache columns, R rows of a refill in W groups, T own tokens of a row, N of a group's
rows, P columns of a shared prefix, M new tokens; L layers, D width. A slot's tokens lie in columns
0, 1, 2, ... of its part of the cache, so a prefix is copied from slot to slot as it is, and columns
from `length` on are never looked at.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from nt_jax.generate.decode_attention import key_axis
from nt_jax.mesh import on_cpu, sharding
from nt_jax.models.transformer import LanguageModel

Stacks = tuple[Array, ...]  # of layers, see `stack_sizes`
# Of each stack keys [l, R, K, H, T], or [l, R, K, T, H] (`key_axis`), and values [l, R, K, T, H].
Cache = tuple[Stacks, Stacks]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """Everything that decoding changes, as one pytree."""

    keys: Stacks  # in the dtype of the model, [L, B, K, H, S], or like values (`key_axis`)
    values_LBKSH: Stacks
    length_B: Array  # int32: tokens in the cache
    last_B: Array  # int32: the token that was picked last and is not in the cache yet
    row_B: Array  # int32: the prompt's stream, which its sampling key is made from
    count_B: Array  # int32: tokens picked so far
    live_B: Array  # bool: neither ended nor empty
    new_BM: Array  # int32: the tokens picked so far
    steer_BLD: Array | None = None  # float32: what each layer's output is moved by; None: nothing

    @property
    def room(self) -> int:
        """S."""
        return self.values_LBKSH[0].shape[3]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """Prompts that enter slots together, int32 but for `steer_RLD`.

    Each of the W devices that rows are shared out to has R / W of them, one group after the other.
    Their own tokens lie one after the other, so that only attention sees padding. Surplus tokens
    and rows repeat the first of their group.
    """

    token_WN: Array
    of_WN: Array  # the row of its group that a token belongs to
    place_WN: Array  # and which of its own tokens it is
    index_RT: Array  # where in its group's N each own token of a row is; anything past its end
    length_R: Array  # own tokens
    shared_R: Array  # tokens before them, which the slot `source_R` already holds
    source_R: Array
    slot_R: Array  # where the row goes
    row_R: Array  # number of its prompt
    steer_RLD: Array | None = None  # float32, see Slots


def stack_sizes(lm: LanguageModel) -> list[int]:
    """Layers of each stack that decoding takes weights and cache in.

    One stack of all on a CPU. Elsewhere one a layer: cutting a layer out of a stack is a copy there
    (8.7 against 21.5 ms a token of an 8B model on an H100, modelled), worth longer compiling. Such
    stacks are a second copy of the layers, which int8 is there to spare.
    """
    layers = lm.config.layers
    return [layers] if on_cpu(lm.mesh) or lm.config.int8 else [1] * layers


def empty_slots(
    lm: LanguageModel, batch: int, room: int, max_new: int, steered: bool = False
) -> Slots:
    """`batch` slots of `room` cache columns, none of them live."""
    config, dtype = lm.laid_out, lm.module().embed[...].dtype
    lead, sizes = (batch, config.kv_heads), stack_sizes(lm)

    def zeros(shape: tuple[int, ...], dtype, letters: str = "B") -> Array:
        return jnp.zeros(shape, dtype, device=sharding(lm.mesh, letters))

    column = (room, config.head_dim)
    key = column if key_axis(lm) == 3 else column[::-1]
    keys = tuple(zeros((size, *lead, *key), dtype, "LBK") for size in sizes)
    values = tuple(zeros((size, *lead, *column), dtype, "LBK") for size in sizes)
    length_B, last_B, row_B, count_B = (zeros((batch,), jnp.int32) for _ in range(4))
    live_B, new_BM = zeros((batch,), bool), zeros((batch, max_new), jnp.int32)
    steer_BLD = zeros((batch, config.layers, config.width), jnp.float32) if steered else None
    return Slots(keys, values, length_B, last_B, row_B, count_B, live_B, new_BM, steer_BLD)


@functools.partial(jax.jit, static_argnames="room")
def grow(lm: LanguageModel, slots: Slots, room: int) -> Slots:
    """The same slots with `room` cache columns, no fewer than before."""

    def longer(stacks: Stacks, axis: int) -> Stacks:
        pad = [(0, (room - slots.room) * (axis == each)) for each in range(5)]
        return tuple(jnp.pad(part, pad) for part in stacks)

    keys, values = longer(slots.keys, key_axis(lm)), longer(slots.values_LBKSH, 3)
    return placed(lm, dataclasses.replace(slots, keys=keys, values_LBKSH=values))


@jax.jit
def choose(lm: LanguageModel, slots: Slots, slot_R: Array) -> Slots:
    """Only the slots of these numbers."""
    keys, values, *rest = (getattr(slots, field.name) for field in dataclasses.fields(slots))
    keys, values = (tuple(jnp.take(x, slot_R, axis=1) for x in part) for part in (keys, values))
    rest = jax.tree.map(lambda part: jnp.take(part, slot_R, axis=0), rest)
    return placed(lm, Slots(keys, values, *rest))


@functools.partial(jax.jit, static_argnames="width")
def prefixes(lm: LanguageModel, slots: Slots, source_R: Array, width: int) -> Cache:
    """The first `width` columns of these slots."""

    def firsts(stacks: Stacks, axis: int) -> Stacks:
        cut = (jax.lax.slice_in_dim(part, 0, width, axis=axis) for part in stacks)
        return tuple(jnp.take(part, source_R, axis=1) for part in cut)

    return firsts(slots.keys, key_axis(lm)), firsts(slots.values_LBKSH, 3)


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
        zero, slot = jnp.int32(0), slot_R[row]
        keys, values = cache

        def put_at(stacks: Stacks, parts: Stacks, place: tuple) -> Stacks:
            new = (jax.lax.dynamic_slice_in_dim(part, row, 1, axis=1) for part in parts)
            pairs = zip(stacks, new, strict=True)
            return tuple(jax.lax.dynamic_update_slice(x, y, place) for x, y in pairs)

        for start, part in ((zero, prefix), (shared_R[row], own)):
            by_value = (zero, slot, zero, start, zero)
            by_key = by_value if key_axis(lm) == 3 else (zero, slot, zero, zero, start)
            keys, values = put_at(keys, part[0], by_key), put_at(values, part[1], by_value)
        return keys, values

    cache = (slots.keys, slots.values_LBKSH)
    keys, values = jax.lax.fori_loop(0, len(slot_R), put, cache)
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

    def put(parts: Any, letters: str) -> Any:
        return jax.lax.with_sharding_constraint(parts, sharding(lm.mesh, letters))

    keys, values, *rest = (getattr(slots, field.name) for field in dataclasses.fields(slots))
    return Slots(put(keys, "LBK"), put(values, "LBK"), *put(rest, "B"))
