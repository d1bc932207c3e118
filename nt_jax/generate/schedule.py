"""Which prompt is decoded when, in which slot, and whose prefix it takes over."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nt_jax.data.batching import bucket, shared_length
from nt_jax.generate.slots import Packed

MIN_SHARED = 16  # a shorter prefix is run again: copying it would save less than it costs


@dataclasses.dataclass(frozen=True)
class Refill:
    """Prompts that enter slots together."""

    rows: list[int]  # numbers of the prompts
    packed: Packed  # numpy arrays

    @property
    def prefix_width(self) -> int:
        """Columns that hold every shared prefix, rounded up: few shapes, few programs."""
        return size_bucket(int(np.max(self.packed.shared_R)))

    @property
    def room(self) -> int:
        """Cache columns that it needs, the first new token included."""
        width = self.packed.index_RT.shape[1]
        end_R = self.packed.shared_R + np.maximum(width, self.packed.length_R + 1)
        return max(int(np.max(end_R)), self.prefix_width)


def size_bucket(length: int) -> int:
    """The smallest of 64, 128, 192, 256, 384, 512, 768, ... that holds `length`."""
    step = 64
    while step * 4 < length:
        step *= 2
    return bucket(length, step)


def in_order(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Prompt numbers, short prompts first, and among like lengths those with like beginnings."""
    return sorted(
        range(len(prompts)),
        key=lambda row: (size_bucket(len(prompts[row])), list(prompts[row]), row),
    )


class Entry(NamedTuple):
    """A prompt that enters a slot, and how much of its beginning which slot holds."""

    row: int
    slot: int
    source: int
    shared: int


class Schedule:
    """The prompts that wait, and what each slot's part of the cache holds."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        batch: int,
        ways: int,
        rows: int,
        tokens: int,
        steered: bool = False,
    ):
        """A refill has a group of prompts for each of `ways` devices.

        A group has at most `rows` prompts and `tokens` tokens, or is one longer prompt. Where
        prompts are `steered`, the last token of each is unlike any other prompt's, so it is never
        taken over.
        """
        self.prompts = [np.asarray(ids, np.int32) for ids in prompts]
        self.ways, self.rows, self.tokens, self.steered = ways, rows, tokens, steered
        self.waiting = in_order(prompts)[::-1]  # the next one is the last: pop() is cheap
        self.held = [np.zeros(0, np.int32)] * batch

    def next_refill(self, free: Sequence[int]) -> Refill | None:
        """What enters the free slots next; None if nobody waits or no slot is free.

        A prompt whose successor shares more with it than with any slot goes alone: its successors
        then take its prefix over instead of running the same tokens again beside it.
        """
        groups: list[list[Entry]] = [[] for _ in range(self.ways)]
        left = list(free)
        while self.waiting and left:
            row = self.waiting[-1]
            source, shared = self._source(row)
            leads = self._leads(row, shared)
            group = self._group_for(groups, len(self.prompts[row]) - shared)
            if group is None or (leads and any(groups)):
                break
            self.waiting.pop()
            slot = source if source in left else left[0]
            left.remove(slot)
            group.append(Entry(row, slot, source, shared))
            if leads:
                break
        for row, slot, _, _ in itertools.chain(*groups):
            self.held[slot] = self.prompts[row][:-1] if self.steered else self.prompts[row]
        return self._pack(groups) if any(groups) else None

    def _group_for(self, groups: list[list[Entry]], own: int) -> list[Entry] | None:
        """The emptiest group that has a row left, if so many tokens have room there.

        Beside a prompt of more than `tokens` each group has one prompt: every row of a refill is
        padded to its length.
        """
        longest = max([own, *(self._own([entry]) for entry in itertools.chain(*groups))])
        long = longest > self.tokens
        if long and any(len(group) > 1 for group in groups):
            return None
        free = [group for group in groups if len(group) < (1 if long else self.rows)]
        group = min(free, key=self._own, default=None)
        fits = group is not None and (long or self._own(group) + own <= self.tokens)
        return group if fits else None

    def _own(self, group: Sequence[Entry]) -> int:
        """Tokens of a group that no slot holds yet."""
        return sum(len(self.prompts[entry.row]) - entry.shared for entry in group)

    def _source(self, row: int) -> tuple[int, int]:
        """(slot that holds most of the prompt's beginning, how many tokens), or (0, 0)."""
        ids = self.prompts[row]
        shared = [min(shared_length(ids, held), len(ids) - 1) for held in self.held]
        best = int(np.argmax(shared))
        return (best, shared[best]) if shared[best] >= MIN_SHARED else (0, 0)

    def _leads(self, row: int, shared: int) -> bool:
        if len(self.waiting) < 2 or self.ways * self.rows == 1:
            return False
        ids = self.prompts[row]
        with_next = shared_length(ids, self.prompts[self.waiting[-2]])
        return min(with_next, len(ids) - 1) >= shared + MIN_SHARED

    def _pack(self, groups: list[list[Entry]]) -> Refill:
        """The arrays of all groups.

        Where there are fewer prompts than devices, the shortest is in the other groups as well:
        equal rows are written to its slot, and no device has to know that it has none.
        """
        entries = list(itertools.chain(*groups))
        shortest = min(entries, key=lambda entry: self._own([entry]))
        groups = [group or [shortest] for group in groups]
        most = max(map(self._own, groups))
        widths = (self.tokens // 4, self.tokens // 2, self.tokens, size_bucket(most))
        width = next(width for width in widths if width >= most)
        rows = 1 if most > self.tokens else self.rows
        reach = size_bucket(max(self._own([entry]) for entry in entries))
        packed = [self._lay(group, rows, width, reach) for group in groups]
        tokens, every = zip(*packed, strict=True)
        own: list[Any] = [np.stack(part) for part in zip(*tokens, strict=True)]
        return Refill(
            [entry.row for entry in entries],
            Packed(*own, *(np.concatenate(part) for part in zip(*every, strict=True))),
        )

    def _lay(
        self, group: list[Entry], rows: int, width: int, reach: int
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """(what Packed has of a group's tokens, [N] each; of its rows, [R / W] each)."""
        row_R, slot_R, source_R, shared_R = np.array(group, np.int32).T
        own = [self.prompts[row][shared:] for row, _, _, shared in group]
        length_R = np.array([len(ids) for ids in own], np.int32)
        start_R = np.cumsum(length_R) - length_R
        total = int(length_R.sum())
        index_RT = np.minimum(start_R[:, None] + np.arange(reach), total - 1).astype(np.int32)
        of_N = np.repeat(np.arange(len(own), dtype=np.int32), length_R)
        place_N = (np.arange(total) - start_R[of_N]).astype(np.int32)
        tokens = [_filled(part, width) for part in (np.concatenate(own), of_N, place_N)]
        every = (index_RT, length_R, shared_R, source_R, slot_R, row_R)
        return tokens, [_filled(part, rows) for part in every]


def _filled(part: np.ndarray, size: int) -> np.ndarray:
    """`part` and so many copies of its first entry that there are `size`."""
    return np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
