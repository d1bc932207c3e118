"""Which prompt is decoded when, in which slot, and whose prefix it takes over. Plain numpy."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from nt_jax.data.batching import bucket

MIN_SHARED = 16  # a shorter prefix is run again: copying it would save less than it costs


@dataclasses.dataclass(frozen=True)
class Refill:
    """Prompts that enter slots together. Arrays of R rows; surplus rows repeat the first one."""

    rows: list[int]  # numbers of the prompts
    slot_R: np.ndarray  # int32: where each goes
    source_R: np.ndarray  # int32: the slot that already holds its first `shared_R` tokens
    shared_R: np.ndarray  # int32
    token_RT: np.ndarray  # int32: the rest of the prompt
    length_R: np.ndarray  # int32: its real tokens
    row_R: np.ndarray  # int32: `rows`, filled up

    @property
    def prefix_width(self) -> int:
        """Columns that hold every shared prefix, rounded up: few shapes, few programs."""
        return size_bucket(int(self.shared_R.max())) if self.shared_R.any() else 0

    @property
    def room(self) -> int:
        """Cache columns that it needs, the first new token included."""
        end_R = self.shared_R + np.maximum(self.token_RT.shape[1], self.length_R + 1)
        return max(int(end_R.max()), self.prefix_width)


def size_bucket(length: int) -> int:
    """The smallest of 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, ... that holds `length`."""
    step = 8
    while step * 4 < length:
        step *= 2
    return bucket(length, step)


def shared_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens are the same."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def in_order(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Prompt numbers, short prompts first, and among like lengths those with like beginnings."""
    return sorted(
        range(len(prompts)),
        key=lambda row: (size_bucket(len(prompts[row])), list(prompts[row]), row),
    )


class Schedule:
    """The prompts that wait, and what each slot's part of the cache holds."""

    def __init__(self, prompts: Sequence[Sequence[int]], batch: int, sizes: tuple[int, int]):
        """`sizes`: rows of a refill of one prompt, and of a refill of many."""
        self.prompts, self.sizes = prompts, sizes
        self.waiting = in_order(prompts)[::-1]  # the next one is the last: pop() is cheap
        self.held: list[Sequence[int]] = [()] * batch

    def next_refill(self, free: Sequence[int]) -> Refill | None:
        """What enters the free slots next; None if nobody waits or no slot is free.

        A prompt whose successor shares more with it than with any slot goes alone: its successors
        then take its prefix over instead of running the same tokens again beside it.
        """
        chosen: list[tuple[int, int, int, int]] = []
        left = list(free)
        while self.waiting and left and len(chosen) < self.sizes[1]:
            row = self.waiting[-1]
            source, shared = self._source(row)
            leads = self._leads(row, shared)
            if leads and chosen:
                break
            self.waiting.pop()
            slot = source if source in left else left[0]
            left.remove(slot)
            chosen.append((row, slot, source, shared))
            if leads:
                break
        for row, slot, _, _ in chosen:
            self.held[slot] = self.prompts[row]
        return self._pack(chosen) if chosen else None

    def keep(self, slots: Sequence[int]) -> None:
        """Forget every other slot; these are renumbered from 0."""
        self.held = [self.held[slot] for slot in slots]

    def _source(self, row: int) -> tuple[int, int]:
        """(slot that holds most of the prompt's beginning, how many tokens), or (0, 0)."""
        ids = self.prompts[row]
        shared = [min(shared_length(ids, held), len(ids) - 1) for held in self.held]
        best = int(np.argmax(shared))
        return (best, shared[best]) if shared[best] >= MIN_SHARED else (0, 0)

    def _leads(self, row: int, shared: int) -> bool:
        if len(self.waiting) < 2 or self.sizes[1] == self.sizes[0]:
            return False
        ids = self.prompts[row]
        with_next = shared_length(ids, self.prompts[self.waiting[-2]])
        return min(with_next, len(ids) - 1) >= shared + MIN_SHARED

    def _pack(self, chosen: list[tuple[int, int, int, int]]) -> Refill:
        size = self.sizes[0] if len(chosen) <= self.sizes[0] else self.sizes[1]
        filled = chosen + chosen[:1] * (size - len(chosen))
        row_R, slot_R, source_R, shared_R = np.array(filled, np.int32).T
        own = [self.prompts[row][shared:] for row, _, _, shared in filled]
        token_RT = np.zeros((size, size_bucket(max(map(len, own)))), np.int32)
        for place, ids in enumerate(own):
            token_RT[place, : len(ids)] = ids
        length_R = np.array([len(ids) for ids in own], np.int32)
        rows = [row for row, *_ in chosen]
        return Refill(rows, slot_R, source_R, shared_R, token_RT, length_R, row_R)
