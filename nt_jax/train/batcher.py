"""The batches of Algorithm 1, drawn from its four sets and packed into sequences."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from nt_jax.config.method import TuneConfig
from nt_jax.data import packing
from nt_jax.data.attacks import far_apart
from nt_jax.data.batching import bucket, draw
from nt_jax.data.packing import PackedBatch, Row, Shape
from nt_jax.data.prompts import Prompt
from nt_jax.data.records import Encode
from nt_jax.mesh import on_cpu, row_ways
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.maml import MetaBatch
from nt_jax.train.memory import GradientMemory, sequence_cost
from nt_jax.train.pools import Pair, Pool, Pools, undivided

SCOPES = ("local", "global")  # of the inner loop, of the outer step on a batch
PLANNED = 64  # epochs that shapes are chosen by; a later one may need a larger shape, and gets it

Drawn = tuple[Prompt, Pair, int]  # what is asked, its pair, the pair's number
Item = TypeVar("Item")
Cost = Callable[[int], float]  # of a sequence of so many tokens, in any unit


def attacked_rows(size: int, share: float, epoch: int) -> range:
    """An epoch's attacked rows, counted over the epochs: `share` of all."""
    return range(*(int(n * size * share + 1e-9) for n in (epoch, epoch + 1)))


class Batcher:
    """Batches of Algorithm 1 as a pure function of (seed, epoch): a resumed run draws the same.

    Each set has one shape that holds its rows at any epoch, so one program serves all of them. The
    length of a set's sequences is what makes an epoch cheapest.
    """

    def __init__(
        self,
        pools: Pools,
        encode: Encode,
        tune: TuneConfig,
        seed: int,
        side: int,
        scopes: Sequence[str] = SCOPES,
    ):
        """`side`: parts in which the mesh cuts rows; a stretch has so many sequences or more.

        `scopes`: of which sets batches are made; those of the others stay None.
        """
        self.encode, self.tune, self.seed, self.side = encode, tune, seed, side
        safety = (pools.local_safety, pools.global_safety)
        self.refusals = [pair.answer for pool in safety for pair in pool.direct]
        attacked = {"safety": 1 - tune.direct_fraction, "utility": tune.attacked_harmless_fraction}
        sizes = dict(zip(SCOPES, (tune.local_batch, tune.global_batch), strict=True))
        # name of a set > (what its rows are drawn from, rows per epoch, share of attacked ones)
        self.sets: dict[str, tuple[Pool, int, float]] = {
            f"{scope}_{side}": (getattr(pools, f"{scope}_{side}"), size, share)
            for scope, size in sizes.items()
            if scope in scopes
            for side, share in attacked.items()
        }
        self.rows = functools.cache(self._rows)  # planning draws what tuning draws again
        self.shapes: dict[str, Shape] = {}
        self.whole: dict[str, PackedBatch] = {}  # sets that are the same in every epoch

    def _rows(self, name: str, epoch: int) -> list[Row]:
        pool, size, share = self.sets[name]
        if not size:
            return self._whole(name, pool, share)
        attacked = attacked_rows(size, share, epoch) if pool.attacked else range(0)
        first = epoch * size - attacked.start
        bare = self._draw(f"{name}direct", pool.direct, range(first, first + size - len(attacked)))
        wrapped = self._attacked_harmful if name.endswith("safety") else self._attacked_harmless
        drawn = [*((pair.request, pair, n) for pair, n in bare), *wrapped(name, attacked, epoch)]
        return [self._row(*each, name == "global_utility") for each in drawn]

    def _attacked_harmful(self, name: str, places: range, epoch: int) -> list[Drawn]:
        pool, stream = self.sets[name][0], f"{name}attacked"
        picked = self._draw(stream, pool.attacked, places)
        if not pool.templates:
            return [(pair.request, pair, n) for pair, n in picked]
        around = self._draw(f"{stream}template", pool.templates, places)
        both = zip(around, picked, strict=True)
        return [(template.apply(pair.request), pair, n) for (template, _), (pair, n) in both]

    def _attacked_harmless(self, name: str, places: range, epoch: int) -> list[Drawn]:
        """Harmless requests inside the attacks that the harmful ones of this batch have.

        What tells the two apart is then the request. An attack without harmless pairs gets any.
        """
        pool, found = self.sets[name][0], []
        attacks = self._attacks(name.partition("_")[0], epoch)
        for n, place in enumerate(places):
            attack = attacks[n % len(attacks)] if attacks else ""
            mine = [n for n, pair in enumerate(pool.attacked) if pair.attack == attack]
            mine = mine or range(len(pool.attacked))
            (row,) = draw(self.seed, f"{name}attacked{attack}", place, len(mine), 1)
            pair = pool.attacked[mine[row]]
            found.append((pair.request, pair, mine[row]))
        return found

    def _attacks(self, scope: str, epoch: int) -> list[str]:
        """The attacks around this epoch's harmful requests; none where a set is taken whole."""
        name = f"{scope}_safety"
        pool, size, share = self.sets[name]
        places, stream = attacked_rows(size, share, epoch), f"{name}attacked"
        if not pool.attacked:
            return []
        if pool.templates:
            return [t.id for t, _ in self._draw(f"{stream}template", pool.templates, places)]
        return [pair.attack for pair, _ in self._draw(stream, pool.attacked, places)]

    def _whole(self, name: str, pool: Pool, share: float) -> list[Row]:
        """Every pair once bare (unless `share` is 1) and once attacked (unless it is 0)."""
        bare = pool.direct if share < 1 or not pool.attacked else ()
        attacked = pool.attacked if share > 0 else ()
        stride = far_apart(len(pool.templates)) if pool.templates else 0
        rows = [(pair.request, pair) for pair in bare]
        for place, pair in enumerate(attacked):
            around = pool.templates[place * stride % len(pool.templates)] if stride else None
            rows.append((around.apply(pair.request) if around else pair.request, pair))
        margin = name == "global_utility"
        return [self._row(text, pair, n, margin) for n, (text, pair) in enumerate(rows)]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(row.tokens for name in self.sets for rows in self._planned(name) for row in rows)

    def choose_shapes(self, most: int, cost: Cost, beside: int = 1) -> None:
        """Settle the sequences of each set: the cheapest of at most `most` tokens.

        Up to `beside` of them lie side by side on each device, in as few stretches as that gives;
        what is cheapest is told of one.
        """
        for name in self.sets:
            shape = packing.cheapest_shape(self._planned(name), self.side, most, cost)
            self.shapes[name] = packing.beside(shape, beside)

    def batch(self, epoch: int) -> MetaBatch:
        """The local and global batches of one epoch, in numpy arrays."""
        return MetaBatch(**{name: self._packed(name, epoch) for name in self.sets})

    def plan(self) -> str:
        """The sequences of an epoch in words, and how much of what runs is padding; "" of none."""
        if not self.sets:
            return ""
        sizes = [f"{s.stretches} x {s.side} x {s.length}" for s in self.shapes.values()]
        planned = min(self.tune.epochs, PLANNED)
        return (
            f"sequences x tokens of an epoch: {', '.join(sizes)} ({', '.join(self.shapes)}); "
            f"{self.padding(planned):.0%} padding"
        )

    def padding(self, epochs: int) -> float:
        """Share of the tokens that run in these epochs which only fill (0..1)."""
        run = real = 0
        for name, shape in self.shapes.items():
            for epoch in range(epochs):
                packed = self._packed(name, epoch)
                real_SBT = np.asarray(packed.part_BT) != packing.PADDING
                length, half = real_SBT.shape[-1], packing.half(real_SBT.shape[-1])
                whole_S = real_SBT[..., half:].any(axis=(1, 2))
                run_S = np.where(whole_S, length, half) * real_SBT.any(axis=(1, 2))
                run, real = run + shape.side * run_S.sum(), real + real_SBT.sum()
        return 1 - float(real) / float(run)

    def _planned(self, name: str) -> list[list[Row]]:
        whole = not self.sets[name][1]  # the same rows in every epoch
        return [self.rows(name, n) for n in range(1 if whole else min(self.tune.epochs, PLANNED))]

    def _packed(self, name: str, epoch: int) -> PackedBatch:
        if self.sets[name][1]:
            return packing.pack_rows(*self._fitted(name, epoch))
        if name not in self.whole:
            self.whole[name] = packing.pack_rows(*self._fitted(name, 0))
        return self.whole[name]

    def _fitted(self, name: str, epoch: int) -> tuple[list[Row], Shape]:
        rows, shape = self.rows(name, epoch), self.shapes[name]
        longest = bucket(max(row.tokens for row in rows), packing.LENGTH_STEP)
        length = max(shape.length, longest)  # an epoch that was not planned may hold a longer row
        return rows, packing.shape_of(rows, length, shape.side).holding(shape)

    def _draw(self, stream: str, rows: Sequence[Item], places: range) -> list[tuple[Item, int]]:
        """(row, its number) of those that a stream has at these places."""
        order = draw(self.seed, stream, places.start, len(rows), len(places)) if places else ()
        return [(rows[n], int(n)) for n in order]

    def _row(self, prompt: Prompt, pair: Pair, number: int, with_margin: bool) -> Row:
        declined = list(pair.declined)
        if not declined and with_margin and self.tune.margin_weight > 0:
            declined = self.refusals[number % len(self.refusals)]
        width = self.tune.answer_tokens
        return Row(self.encode(prompt), pair.answer[:width], declined[:width])


def make_batcher(
    lm: LanguageModel,
    layers: int,
    encode: Encode,
    pools: Pools,
    config: TuneConfig,
    seed: int,
    beside: bool = True,
) -> tuple[Batcher, bool]:
    """(the batches, whether to recompute layers), as the memory allows.

    `layers`: those that a gradient goes through. `beside`: whether an accelerator may take several
    sequences at once. Without an inner loop nothing is kept apart for it, and none of its batches
    are made; nor those of an outer step that is a regression over prompts of its own.
    """
    pools = pools if config.inner_steps else undivided(pools)
    read = (config.inner_steps > 0, config.outer != "regression")
    scopes = [scope for scope, reads in zip(SCOPES, read, strict=True) if reads]
    batcher = Batcher(pools, encode, config, seed, row_ways(lm.mesh), scopes)
    if not scopes:
        return batcher, False
    memory = GradientMemory.of(lm, layers)
    beside = beside and not on_cpu(lm.mesh)
    found = memory.tuning(batcher.longest, config.sequence_tokens, accelerator=beside)
    batcher.choose_shapes(found.tokens, sequence_cost(lm.config), found.side)
    return batcher, found.remat
