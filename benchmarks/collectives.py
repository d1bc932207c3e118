"""The collectives of a compiled program: how often each runs, along which mesh axis, what it sends.

Bytes are what each card sends when its group passes parts around a ring: of an all-reduce of X
bytes over n cards 2 (n - 1) / n X, of an all-gather or all-to-all whose result is X (n - 1) / n X,
of a reduce-scatter whose result is X (n - 1) X, of a permutation X.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np

from benchmarks.hlo_cost import Kernel, Program

Groups = list[list[int]]  # of numbers of cards, in the order of the mesh
SHARES = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "collective-permute": lambda n: 1 if n > 1 else 0,
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program on a (data, model) mesh."""

    op: str
    shape: str  # of its result, and of its operands where it starts and another ends it
    source: str  # the operation of the program that it was made for, "" where it serves several
    axis: str  # data, model, or both
    cards: int  # of a group
    times: int
    result: int  # bytes

    @property
    def sent(self) -> float:
        """Bytes that each card sends in all its runs."""
        return self.times * SHARES[self.op](self.cards) * self.result


def collectives(text: str, mesh: tuple[int, int], rounds: int = 1) -> list[Collective]:
    """Those of a program's text; loops whose number of rounds it does not hold run `rounds` times.

    A group of one card sends nothing and is left out.
    """
    found = [_read(each, mesh) for each in Program(text, rounds).kernels if each.collective]
    return [each for each in found if each.cards > 1]


def by_op(found: Sequence[Collective]) -> dict[str, int]:
    """How many of each kind run."""
    total: dict[str, int] = {}
    for each in found:
        total[each.op] = total.get(each.op, 0) + each.times
    return dict(sorted(total.items()))


def continued(
    few: Sequence[Collective], more: Sequence[Collective], steps: float
) -> tuple[Collective, ...]:
    """Those of a deeper program, from those of two whose layers differ by one of `steps`."""

    def counted(found: Sequence[Collective]) -> dict[tuple, int]:
        total: dict[tuple, int] = {}
        for each in found:
            key = (each.op, each.axis, each.cards, each.result)
            total[key] = total.get(key, 0) + each.times
        return total

    before, after = counted(few), counted(more)
    named = {(e.op, e.axis, e.cards, e.result): e for e in more}
    assert set(before) == set(after), "A deeper program has other collectives, not more of them."
    return tuple(
        dataclasses.replace(each, times=round(after[key] + steps * (after[key] - before[key])))
        for key, each in named.items()
    )


def _read(kernel: Kernel, mesh: tuple[int, int]) -> Collective:
    line = kernel.instruction
    op, name = line.op.removesuffix("-start"), re.search(r'op_name="([^"]*)"', line.rest)
    groups = groups_of(line.rest, math.prod(mesh))
    most = max(map(len, groups), default=1)
    source = name.group(1) if name else ""
    axis = _axis(groups, mesh[1])
    return Collective(op, line.shape, source, axis, most, kernel.times, kernel.written)


def _axis(groups: Groups, model: int) -> str:
    """The mesh axis that the cards of a group differ in."""
    places = [[divmod(card, model) for card in group] for group in groups]
    data, other = (any(len({p[i] for p in group}) > 1 for group in places) for i in (0, 1))
    return "both" if data and other else "data" if data else "model"


def groups_of(rest: str, cards: int) -> Groups:
    """Which cards talk to each other, of what follows a collective's brackets.

    Four spellings: lists, cards counted off a (transposed) grid, axes of a mesh, pairs.
    """
    if pairs := re.search(r"source_target_pairs=\{(.*?\})\}", rest):
        both = [[int(n) for n in pair.split(",")] for pair in re.findall(r"\{(.*?)\}", pairs[1])]
        return [pair for pair in both if pair[0] != pair[1]]
    if lists := re.search(r"replica_groups=\{(\{.*?\})?\}", rest):
        found = re.findall(r"\{(.*?)\}", lists[1] or "")
        return [[int(n) for n in group.split(",")] for group in found] or [[*range(cards)]]
    if grid := re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\S+?),? ", rest + " "):
        return _grid(grid[3], cards).reshape(int(grid[1]), int(grid[2])).tolist()
    named = r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?\)?)\))? \{(.*?)\}"
    if axes := re.search(named, rest):
        return _along(axes[1], axes[2] or f"[{cards}]", axes[3], cards)
    raise ValueError(f"Groups of cards in words that nothing here reads: {rest[:200]}")


def _grid(words: str, cards: int) -> np.ndarray:
    """The cards in the order of e.g. [2,4]T(1,0)."""
    match = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", words)
    if match is None:
        raise ValueError(f"An order of cards in words that nothing here reads: {words}")
    sizes, order = ([int(n) for n in part.split(",")] if part else None for part in match.groups())
    return np.arange(cards).reshape(sizes).transpose(order)


def _along(axes: str, order: str, used: str, cards: int) -> Groups:
    """Groups along some axes of a mesh, e.g. 'a'=2,'b'=4 with {'b'}."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    chosen = re.findall(r"'(\w+)'", used)
    if ":" in used:
        raise ValueError(f"A part of a mesh axis, which nothing here reads: {used}")
    at, last = [*sizes].index, len(sizes) - len(chosen)
    whole = _grid(order, cards).reshape([*sizes.values()])
    moved = np.moveaxis(whole, [at(name) for name in chosen], range(last, len(sizes)))
    return moved.reshape(-1, math.prod(sizes[name] for name in chosen)).tolist()
