"""One answer as it comes, a few tokens at a time, by the programs of answer_prompts."""

from collections.abc import Iterator, Sequence

import numpy as np
from jax import Array

from nt_jax.generate import decode
from nt_jax.generate.decode import GREEDY
from nt_jax.generate.engine import (
    Job,
    advance,
    before_eos,
    check_lengths,
    enter,
    first_slots,
    schedule_of,
)
from nt_jax.mesh import host
from nt_jax.models.layers import Block
from nt_jax.models.transformer import LanguageModel

EVERY = 4  # tokens between two looks at an answer


def stream(
    lm: LanguageModel,
    scale_LF: Array,
    prompt: Sequence[int],
    *,
    max_new: int,
    every: int = EVERY,
    blocks: Sequence[Block] | None = None,
) -> Iterator[list[int]]:
    """The greedy answer so far, as token ids, every few tokens; last the whole one.

    It is what answer_prompts gives for this prompt alone. `blocks`: `decode.rescaled` ones, where
    several factors share one copy of the weights. Raises a DataError for a prompt without room.
    """
    check_lengths(lm.config.max_positions, [prompt], max_new)
    stacks = decode.stacks_of(lm, scale_LF) if blocks is None else tuple(blocks)
    job = Job(lm, stacks, max_new, GREEDY, np.zeros(1, np.int32), None)
    schedule = schedule_of(job, [prompt], 1)
    slots = first_slots(job, [prompt], len(schedule.held))
    refill = schedule.next_refill([0])
    assert refill is not None  # one prompt, one free slot
    slots = enter(job, slots, refill)
    row_B = np.full(len(schedule.held), -1)
    row_B[0] = 0
    while True:
        live_B, count_B, new_BM = host((slots.live_B, slots.count_B, slots.new_BM))
        yield before_eos(lm.config.eos_ids, new_BM[0, : count_B[0]].tolist())
        if not live_B[0]:
            return
        slots = advance(job, slots, row_B, len(row_B), every)
