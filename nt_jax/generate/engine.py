"""Many prompts in, many answers out: a row that has ended makes room for the next prompt."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nt_jax.data.batching import bucket
from nt_jax.errors import DataError
from nt_jax.generate import decode
from nt_jax.generate.decode import GREEDY, Sampling
from nt_jax.generate.decode_attention import by_kernel
from nt_jax.generate.schedule import Refill, Schedule, size_bucket
from nt_jax.generate.slots import Slots, choose, empty_slots, grow, insert, prefixes
from nt_jax.mesh import filled, host, put, row_ways, sharding
from nt_jax.models.layers import Block
from nt_jax.models.transformer import LanguageModel

STEPS = 32  # tokens between two looks at what has ended, where no refill asks for one earlier
SMALLEST = 8  # slots; fewer are hardly faster
WORTHWHILE = 64  # steps that fewer slots must have to go, or compiling for them costs more
EARLY_ROOM = 128  # columns of the cache past the longest prompt at first; it grows where needed
REFILL_TOKENS = {"cpu": 256}  # that keep a device busy; 4096 elsewhere

OnBatch = Callable[[list[int], list[list[int]]], None]
Finished = Iterator[tuple[list[int], list[list[int]]]]  # prompt numbers, their new tokens


class Job(NamedTuple):
    """What all prompts have in common, and what each is steered by."""

    lm: LanguageModel
    blocks: tuple[Block, ...]  # `decode.stacks_of` the model under its factors
    max_new: int
    sampling: Sampling
    stream_N: np.ndarray  # int32, by prompt: what its draws are made from beside the seed
    steer_RLD: np.ndarray | None


def check_lengths(context: int, prompts: Sequence[Sequence[int]], max_new: int) -> None:
    """Raises a DataError naming the first prompt that leaves no room for its answer."""
    room = context - max_new
    for row, ids in enumerate(prompts):
        if len(ids) > room:
            raise DataError(
                f"prompt {row + 1} of {len(prompts)} has {len(ids)} tokens; with {max_new} new "
                f"ones it does not fit the model's context of {context}. "
                "Shorten or drop it, or lower the number of new tokens."
            )
        if len(ids) == 0:
            raise DataError(f"prompt {row + 1} of {len(prompts)} is empty: nothing to answer.")


def answer_prompts(
    lm: LanguageModel,
    scale_LF: Array,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int,
    batch_size: int,
    on_batch: OnBatch | None = None,
    sampling: Sampling = GREEDY,
    streams: Sequence[int] | None = None,
    steer_RLD: np.ndarray | None = None,
) -> list[list[int]]:
    """Answers as token ids, in the order of `prompts`, cut before their first EOS.

    At most `batch_size` are decoded side by side. `on_batch(rows, answers)` hears of answers as
    they are finished, so that nothing earned is lost. What a row is answered depends on the row
    alone, but for float rounding: sums over other shapes may end in another last bit. Draws are
    made from the seed of `sampling` and the row's number in `streams` (below 2**31), unless given
    its place among the prompts.

    `steer_RLD`, float32 [prompts, layers, width], is added to the residual stream after each
    layer, at the last token of the prompt and at every new token, never at earlier ones.
    """
    check_lengths(lm.config.max_positions, prompts, max_new)
    answers: list[list[int]] = [[] for _ in prompts]
    if not prompts or max_new == 0:
        if prompts and on_batch is not None:
            on_batch([*range(len(prompts))], answers)
        return answers
    if steer_RLD is not None:
        chex.assert_shape(steer_RLD, (len(prompts), lm.config.layers, lm.config.width))
    stream_N = np.asarray(range(len(prompts)) if streams is None else streams, np.int32)
    chex.assert_shape(stream_N, (len(prompts),))
    job = Job(lm, decode.stacks_of(lm, scale_LF), max_new, sampling, stream_N, steer_RLD)
    for rows, tokens in _decoded(job, prompts, batch_size):
        done = [before_eos(lm.config.eos_ids, new) for new in tokens]
        for row, answer in zip(rows, done, strict=True):
            answers[row] = answer
        if on_batch is not None:
            on_batch(rows, done)
    return answers


def _decoded(job: Job, prompts: Sequence[Sequence[int]], batch_size: int) -> Finished:
    """(prompt numbers, their new tokens) as they are finished."""
    schedule = schedule_of(job, prompts, batch_size)
    batch, ways = len(schedule.held), row_ways(job.lm.mesh)
    slots = first_slots(job, prompts, batch, schedule.steered)
    row_B = np.full(batch, -1)  # the prompt in each slot, -1: none
    while schedule.waiting or (row_B >= 0).any():
        # Refills are worth their while from an eighth of the slots on: fewer wait for each other.
        wanted = max(1, min(len(row_B) // 8, len(schedule.waiting)))
        while (row_B < 0).sum() >= wanted and (
            refill := schedule.next_refill(np.flatnonzero(row_B < 0).tolist())
        ):
            slots = enter(job, slots, refill)
            row_B[refill.packed.slot_R] = refill.packed.row_R
        wanted = max(1, min(len(row_B) // 8, len(schedule.waiting)))
        slots = advance(job, slots, row_B, wanted if schedule.waiting else len(row_B))
        live_B, count_B, new_BM = host((slots.live_B, slots.count_B, slots.new_BM))
        ended = np.flatnonzero((row_B >= 0) & ~live_B)
        if ended.size:
            yield row_B[ended].tolist(), [new_BM[slot, : count_B[slot]].tolist() for slot in ended]
            row_B[ended] = -1
        fewer = _fewer(int(live_B.sum()), len(row_B), ways)
        to_go = job.max_new - count_B[live_B].min(initial=job.max_new)
        if not schedule.waiting and fewer < len(row_B) and to_go >= WORTHWHILE:
            kept = np.argsort(~live_B, kind="stable")[:fewer]
            slots, row_B = choose(job.lm, slots, jnp.asarray(kept, jnp.int32)), row_B[kept]


def first_slots(
    job: Job, prompts: Sequence[Sequence[int]], batch: int, steered: bool = False
) -> Slots:
    """Empty slots with room for the prompts and the first tokens of their answers."""
    room = size_bucket(max(map(len, prompts)) + EARLY_ROOM)
    return empty_slots(job.lm, batch, room, size_bucket(job.max_new), steered)


def schedule_of(job: Job, prompts: Sequence[Sequence[int]], batch_size: int) -> Schedule:
    """The prompts on as many slots as they need, `batch_size` at most."""
    ways = row_ways(job.lm.mesh)
    batch_size = filled(batch_size, job.lm.mesh)
    waves = -(-len(prompts) // batch_size)  # alike in size, or the last one is mostly empty
    batch = min(batch_size, bucket(-(-len(prompts) // waves), SMALLEST * ways))
    tokens = REFILL_TOKENS.get(jax.devices()[0].platform, 4096)
    mean = max(128, sum(map(len, prompts)) / len(prompts))  # one size for all short prompts
    rows = max(1, min(batch // ways, 1 << int(np.log2(max(1, 4 * tokens / mean)))))
    return Schedule(prompts, batch, ways, rows, tokens, job.steer_RLD is not None)


def enter(job: Job, slots: Slots, refill: Refill) -> Slots:
    """`slots` with the refill's prompts in them and their first token picked."""
    lm, packed = job.lm, refill.packed
    if job.steer_RLD is not None:
        steer_RLD = np.asarray(job.steer_RLD[packed.row_R], np.float32)
        packed = dataclasses.replace(packed, steer_RLD=steer_RLD)
    packed = dataclasses.replace(packed, row_R=job.stream_N[packed.row_R])
    slots = _grown(lm, slots, refill.room)
    packed = put(packed, sharding(lm.mesh, "R"))
    prefix = prefixes(lm, slots, packed.source_R, refill.prefix_width)
    first_R, own = decode.prefill(lm, job.blocks, packed, prefix, job.sampling)
    return insert(lm, slots, packed, prefix, own, first_R, jnp.int32(job.max_new))


def advance(
    job: Job, slots: Slots, row_B: np.ndarray, wanted: int, steps: int | None = None
) -> Slots:
    """At most `steps` (STEPS) tokens more in each slot, until `wanted` slots are free."""
    longest = int(host(slots.length_B)[row_B >= 0].max())
    slots = _grown(job.lm, slots, longest + 1)
    width = slots.room
    if not by_kernel(job.lm):  # which looks no further than it must by itself
        width = min(bucket(longest + 1, 64 if longest < 256 else 128), width)
    limits = (jnp.int32(n) for n in (steps or STEPS, len(row_B) - wanted, job.max_new))
    return decode.decode(job.lm, job.blocks, slots, *limits, width, job.sampling)


def _fewer(rows: int, batch: int, ways: int) -> int:
    """The fewest slots that hold `rows`, out of `batch`, a quarter of it, a sixteenth, ..."""
    while batch // 4 >= max(rows, SMALLEST) and batch % (4 * ways) == 0:
        batch //= 4
    return batch


def _grown(lm: LanguageModel, slots: Slots, room: int) -> Slots:
    """`slots` with at least `room` cache columns."""
    return slots if room <= slots.room else grow(lm, slots, size_bucket(room))


def before_eos(eos_ids: Sequence[int], new: Sequence[int]) -> list[int]:
    """The tokens before the first EOS."""
    return list(itertools.takewhile(lambda token: token not in eos_ids, new))
