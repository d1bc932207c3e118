"""Prompts with given answers, laid end to end in sequences of one length: little padding.

Rows that begin alike share that beginning (a system prompt), an answer and a refusal of the same
request share the request: a token sees the tokens before it in its own part and in the parts that
its part continues, nothing else. So every answer is as likely as if it stood alone.

S stretches that run one after the other, B sequences side by side in each, T tokens of a sequence,
Q answer tokens of a sequence, R rows of a sequence.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from nt_jax.data.batching import bucket, shared_length
from nt_jax.errors import DataError

LENGTH_STEP = 16  # lengths of sequences are multiples of this
SHARED_STEP = 8  # and this what is shared beside them: few lengths, few compilations
PADDING = -1  # the part of tokens, and the answer of targets, that only fill
OF_TOKENS = ("token_BT", "position_BT", "part_BT", "above_BT", "x_BTD")  # fields with an axis T


@dataclasses.dataclass(frozen=True)
class Row:
    """A prompt and its answer; `declined` is an answer to it that must stay less likely."""

    prompt: Sequence[int]
    answer: Sequence[int]
    declined: Sequence[int] = ()

    @property
    def tokens(self) -> int:
        """Tokens of the row in a sequence: nothing is predicted from the last one of an answer."""
        return len(self.prompt) + sum(max(0, len(a) - 1) for a in (self.answer, self.declined))

    @property
    def targets(self) -> int:
        """Tokens to predict."""
        return len(self.answer) + len(self.declined)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a batch: few different ones, few compilations."""

    stretches: int  # S
    side: int  # B
    length: int  # T
    targets: int  # Q
    rows: int  # R

    def holding(self, other: "Shape") -> "Shape":
        """The smallest shape that holds both."""
        return Shape(
            *(max(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """One set of rows; leading axes [S, B], or [B] within a stretch."""

    token_BT: jax.Array | np.ndarray  # int32
    position_BT: jax.Array | np.ndarray  # int32: as if the token's row stood alone
    part_BT: jax.Array | np.ndarray  # int32: 0 is the beginning that all rows share
    above_BT: jax.Array | np.ndarray  # int32: the part that the token's part continues
    at_BQ: jax.Array | np.ndarray  # int32: the place in T that predicts a target
    target_BQ: jax.Array | np.ndarray  # int32: tokens of answers
    place_BQ: jax.Array | np.ndarray  # int32: which token of its answer a target is
    answer_BQ: jax.Array | np.ndarray  # int32: 2 r for the answer of row r, 2 r + 1 for declined
    weight_BR: jax.Array | np.ndarray  # float64 until placed: sums to 1 over the whole batch
    x_BTD: jax.Array | None = None  # residual stream that enters the first layer to be run

    def first_half(self) -> "PackedBatch":
        """A stretch (leading axis [B]) without what lies past `half` of its tokens."""
        keep = half(self.part_BT.shape[-1])
        cut = {name: getattr(self, name) for name in OF_TOKENS}
        return dataclasses.replace(
            self, **{name: None if leaf is None else leaf[:, :keep] for name, leaf in cut.items()}
        )


def half(length: int) -> int:
    """Tokens that run of a stretch whose second half only fills."""
    return min(length, bucket(-(-length // 2), LENGTH_STEP))


def shared_by_all(rows: Sequence[Row]) -> int:
    """Tokens at the beginning that all prompts have in common."""
    prompts = [list(row.prompt) for row in rows]
    return shared_length(min(prompts), max(prompts))  # what these two share, all between them share


def fill(rows: Sequence[Row], length: int) -> list[list[int]]:
    """Row numbers of each sequence: the longest first, each where it still fits."""
    if not rows:
        return []
    shared = shared_by_all(rows)
    groups: list[list[int]] = []
    room: list[int] = []
    for number in sorted(range(len(rows)), key=lambda n: (-rows[n].tokens, n)):
        need = rows[number].tokens - shared
        if shared + need > length:
            raise DataError(
                f"a row of {rows[number].tokens} tokens does not fit a sequence of {length}."
            )
        spot = next((i for i, free in enumerate(room) if need <= free), None)
        if spot is None:
            spot = len(groups)
            groups.append([])
            room.append(length - shared)
        groups[spot].append(number)
        room[spot] -= need
    return groups


def shape_of(rows: Sequence[Row], length: int, side: int) -> Shape:
    """The sizes that `rows` need in sequences of `length`, `side` of them side by side."""
    return _shape(rows, fill(rows, length), length, side)


def _shape(rows: Sequence[Row], groups: Sequence[Sequence[int]], length: int, side: int) -> Shape:
    targets = max((sum(rows[n].targets for n in group) for group in groups), default=1)
    most = max(map(len, groups), default=1)
    return Shape(max(1, -(-len(groups) // side)), side, length, targets, most)


def cheapest_shape(
    sets: Sequence[Sequence[Row]], side: int, most: int, cost: Callable[[int], float]
) -> Shape:
    """The shape that holds each of `sets` at the least cost over all of them.

    `cost` is that of a sequence of so many tokens, in any unit; sequences get at most `most` tokens
    unless a row needs more. A stretch whose second half only fills costs as much as its first.
    """
    shortest = bucket(max(row.tokens for rows in sets for row in rows), LENGTH_STEP)
    best, least = None, math.inf
    for length in range(shortest, max(shortest, most) + 1, LENGTH_STEP):
        filled = [fill(rows, length) for rows in sets]
        whole, part = cost(length), cost(half(length))
        total = 0.0
        for rows, groups in zip(sets, filled, strict=True):
            used = _tokens(rows, groups)
            longest = (max(used[n : n + side]) for n in range(0, len(used), side))
            total += sum(whole if tokens > half(length) else part for tokens in longest)
        if total < least:
            shapes = [_shape(*pair, length, side) for pair in zip(sets, filled, strict=True)]
            best, least = functools.reduce(Shape.holding, shapes), total
    assert best is not None
    return best


def beside(shape: Shape, most: int) -> Shape:
    """The shape with up to `most` of its stretches side by side, and no more than needed."""
    stretches = -(-shape.stretches // most)
    side = -(-shape.stretches // stretches) * shape.side
    return dataclasses.replace(shape, stretches=stretches, side=side)


def _tokens(rows: Sequence[Row], groups: Sequence[Sequence[int]]) -> list[int]:
    """Tokens of each sequence that do not fill."""
    shared = shared_by_all(rows)
    return [shared + sum(rows[n].tokens - shared for n in group) for group in groups]


def pack_rows(rows: Sequence[Row], shape: Shape) -> PackedBatch:
    """`rows` in sequences, numpy arrays [S, B, ...]; raises a DataError where they do not fit."""
    _check(rows, shape_of(rows, shape.length, shape.side), shape)
    shared = shared_by_all(rows) if rows else 0
    return _lay(rows, fill(rows, shape.length), shared, shape)


def pack_alone(rows: Sequence[Row], shape: Shape, shared: int = 0) -> PackedBatch:
    """Each row in a sequence of its own, in the order given; else like `pack_rows`.

    Its first `shared` tokens, fewer than its prompt has, are left out: they run beside the batch.
    """
    longest, most = (max((getattr(r, n) for r in rows), default=0) for n in ("tokens", "targets"))
    stretches = max(1, -(-len(rows) // shape.side))
    needed = Shape(stretches, shape.side, max(0, longest - shared), most, 1)
    _check(rows, needed, shape)
    return _lay(rows, [[number] for number in range(len(rows))], shared, shape, outside=True)


def shared_beside(rows: Sequence[Row]) -> int:
    """How many first tokens of all rows may run beside them; each keeps a token of its prompt."""
    if not rows:
        return 0
    most = min(shared_by_all(rows), *(len(row.prompt) - 1 for row in rows))
    return most // SHARED_STEP * SHARED_STEP


def _check(rows: Sequence[Row], needed: Shape, shape: Shape) -> None:
    if needed.holding(shape) != shape:
        raise DataError(f"{len(rows)} rows need {needed}; they do not fit a batch of {shape}.")


def _lay(
    rows: Sequence[Row],
    groups: Sequence[Sequence[int]],
    shared: int,
    shape: Shape,
    outside: bool = False,
) -> PackedBatch:
    """`shared` first tokens of all rows begin each sequence, or are left out of it (`outside`)."""
    batch = _blank(shape)
    for group, lead in zip(groups, np.ndindex(shape.stretches, shape.side), strict=False):
        sequence = _Sequence(jax.tree.map(lambda leaf, at=lead: leaf[at], batch))
        if not outside:
            sequence.add(rows[group[0]].prompt[:shared], 0, part=0, above=0)
        for place, number in enumerate(group):
            sequence.add_row(rows[number], shared, place, 1 / len(rows))
    return batch


def _blank(shape: Shape) -> PackedBatch:
    lead = (shape.stretches, shape.side)
    tokens, targets = (np.zeros((*lead, last), np.int32) for last in (shape.length, shape.targets))
    return PackedBatch(
        token_BT=tokens,
        position_BT=tokens.copy(),
        part_BT=np.full_like(tokens, PADDING),
        above_BT=np.full_like(tokens, PADDING),
        at_BQ=targets,
        target_BQ=targets.copy(),
        place_BQ=targets.copy(),
        answer_BQ=np.full_like(targets, PADDING),
        weight_BR=np.zeros((*lead, shape.rows)),
    )


class _Sequence:
    """Writes parts one after the other into the arrays of one sequence."""

    def __init__(self, arrays: PackedBatch):
        self.arrays, self.tokens, self.targets = arrays, 0, 0

    def add(self, ids: Sequence[int], position: int, *, part: int, above: int) -> None:
        """Tokens of one part; they start at this position of their row."""
        span = slice(self.tokens, self.tokens + len(ids))
        self.arrays.token_BT[span] = ids
        self.arrays.position_BT[span] = np.arange(position, position + len(ids))
        self.arrays.part_BT[span], self.arrays.above_BT[span] = part, above
        self.tokens += len(ids)

    def add_row(self, row: Row, shared: int, place: int, weight: float) -> None:
        """The row's own part of its prompt, then what is predicted after it."""
        ask = 1 + 3 * place
        self.add(row.prompt[shared:], shared, part=ask, above=0)
        last = self.tokens - 1 if len(row.prompt) > shared else shared - 1
        self.arrays.weight_BR[place] = weight
        for which, answer in enumerate((row.answer, row.declined)):
            if answer:
                start = self.tokens
                self.add(answer[:-1], len(row.prompt), part=ask + 1 + which, above=ask)
                self._aim(answer, [last, *range(start, self.tokens)], 2 * place + which)

    def _aim(self, answer: Sequence[int], at: Sequence[int], number: int) -> None:
        span = slice(self.targets, self.targets + len(answer))
        self.arrays.at_BQ[span], self.arrays.target_BQ[span] = at, answer
        self.arrays.place_BQ[span] = np.arange(len(answer))
        self.arrays.answer_BQ[span] = number
        self.targets += len(answer)
