"""Many prompts in, many answers out: a row that has ended makes room for the next prompt."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nt_jax.data.batching import bucket
from nt_jax.errors import DataError
from nt_jax.mesh import sharding
from nt_jax.models import decode
from nt_jax.models.decode import GREEDY, Sampling
from nt_jax.models.schedule import Refill, Schedule, size_bucket
from nt_jax.models.slots import Slots, choose, empty_slots, grow, insert, prefixes
from nt_jax.models.transformer import LanguageModel

STEPS = 32  # tokens between two looks at what has ended, where no refill asks for one earlier
SMALLEST = 8  # slots; fewer are hardly faster
EARLY_ROOM = 128  # new tokens that the cache has columns for from the start; then it grows
REFILL_TOKENS = {"cpu": 256}  # that keep the device busy; 4096 elsewhere

OnBatch = Callable[[list[int], list[list[int]]], None]


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[tuple[int, list[int]]]:
    """(prompt width, row numbers) of each batch; rows of like length share a batch."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield bucket(lengths[rows[-1]], 32), rows


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
) -> list[list[int]]:
    """Answers as token ids, in the order of `prompts`, cut before their first EOS.

    At most `batch_size` are decoded side by side. `on_batch(rows, answers)` hears of answers as
    they are finished, so that nothing earned is lost. What a row is answered depends on the row
    alone, but for float rounding: sums over other shapes may end in another last bit.
    """
    check_lengths(lm.config.max_positions, prompts, max_new)
    answers: list[list[int]] = [[] for _ in prompts]
    if not prompts:
        return answers
    for rows, tokens in _decoded(lm, scale_LF, prompts, max_new, batch_size, sampling):
        done = [before_eos(lm.config.eos_ids, new) for new in tokens]
        for row, answer in zip(rows, done, strict=True):
            answers[row] = answer
        if on_batch is not None:
            on_batch(rows, done)
    return answers


def _decoded(
    lm: LanguageModel,
    scale_LF: Array,
    prompts: Sequence[Sequence[int]],
    max_new: int,
    batch_size: int,
    sampling: Sampling,
) -> Iterator[tuple[list[int], list[list[int]]]]:
    """(prompt numbers, their new tokens) as they are finished."""
    ways = lm.mesh.shape["data"]
    waves = -(-len(prompts) // batch_size)  # alike in size, or the last one is mostly empty
    batch = min(batch_size, bucket(-(-len(prompts) // waves), SMALLEST * ways))
    tokens = REFILL_TOKENS.get(jax.devices()[0].platform, 4096)
    mean = sum(map(len, prompts)) / len(prompts)
    many = min(batch, max(ways, 1 << int(np.log2(max(1, 4 * tokens / mean))), 2))
    schedule = Schedule(prompts, batch, (ways, many // ways * ways), tokens)
    room = size_bucket(max(map(len, prompts)) + min(max_new, EARLY_ROOM))
    slots = empty_slots(lm, batch, room, max_new)
    row_B = np.full(batch, -1)  # the prompt in each slot, -1: none
    while schedule.waiting or (row_B >= 0).any():
        wanted = max(1, min(len(row_B) // 8, len(schedule.waiting)))  # fewer wait for each other
        while (row_B < 0).sum() >= wanted and (
            refill := schedule.next_refill(np.flatnonzero(row_B < 0).tolist())
        ):
            slots = _enter(lm, scale_LF, slots, refill, sampling)
            row_B[refill.packed.slot_R] = refill.packed.row_R
        wanted = min(len(row_B) // 8 or 1, len(schedule.waiting)) or len(row_B)
        longest = int(np.asarray(slots.length_B)[row_B >= 0].max())
        slots = _grown(slots, longest + 1)
        width = min(bucket(longest + 1, 32 if longest < 256 else 128), slots.room)
        steps, enough = jnp.int32(STEPS), jnp.int32(len(row_B) - wanted)
        slots = decode.decode(lm, scale_LF, slots, steps, enough, width, sampling)
        live_B, count_B, new_BM = jax.device_get((slots.live_B, slots.count_B, slots.new_BM))
        ended = np.flatnonzero((row_B >= 0) & ~live_B)
        if ended.size:
            yield row_B[ended].tolist(), [new_BM[slot, : count_B[slot]].tolist() for slot in ended]
            row_B[ended] = -1
        fewer = _fewer(int(live_B.sum()), len(row_B), ways)
        if not schedule.waiting and live_B.any() and fewer < len(row_B):
            kept = np.argsort(~live_B, kind="stable")[:fewer]
            slots, row_B = choose(slots, jnp.asarray(kept, jnp.int32)), row_B[kept]
            schedule.keep(kept.tolist())


def _fewer(rows: int, batch: int, ways: int) -> int:
    """The fewest slots that hold `rows`, out of `batch`, a quarter of it, a sixteenth, ..."""
    while batch // 4 >= max(rows, SMALLEST) and batch % (4 * ways) == 0:
        batch //= 4
    return batch


def _enter(
    lm: LanguageModel, scale_LF: Array, slots: Slots, refill: Refill, sampling: Sampling
) -> Slots:
    """`slots` with the refill's prompts in them and their first token picked."""
    slots = _grown(slots, refill.room)
    packed = jax.device_put(refill.packed, sharding(lm.mesh, "R"))
    prefix = prefixes(slots, packed.source_R, refill.prefix_width)
    first_R, own = decode.prefill(lm, scale_LF, packed, prefix, sampling)
    return insert(lm, slots, packed, prefix, own, first_R)


def _grown(slots: Slots, room: int) -> Slots:
    """`slots` with at least `room` cache columns."""
    return slots if room <= slots.room else grow(slots, size_bucket(room))


def before_eos(eos_ids: Sequence[int], new: Sequence[int]) -> list[int]:
    """The tokens before the first EOS."""
    return list(itertools.takewhile(lambda token: token not in eos_ids, new))
