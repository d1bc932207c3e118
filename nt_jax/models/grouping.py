"""How attention heads lie on a model axis that does not divide them.

A device of mesh.model has an equal part of the kv heads, and with each kv head its query heads, as
many for every one. Where the axis does not divide the kv heads, each is laid down several times,
every copy with a part of its query heads; whatever room is left is heads of zeros. The rows of o
behind a query head of zeros are zeros as well, so it adds exactly nothing, and has no slope.

Copies are those of one weight: who changes k or v changes the published heads
(nt_jax/models/leaves.py).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nt_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Grouping:
    """Heads as published, and as they lie on a mesh: `kv_heads` groups of `group` query heads."""

    published: tuple[int, int]  # query heads, kv heads
    copies: int  # of each published kv head, one after the other
    kv_heads: int
    group: int

    @property
    def heads(self) -> int:
        """Query heads, those of zeros included."""
        return self.kv_heads * self.group

    @property
    def as_published(self) -> bool:
        """Whether nothing is laid out anew."""
        return (self.heads, self.kv_heads) == self.published

    def __str__(self) -> str:
        """One line for the screen."""
        heads, kv_heads = self.published
        laid = f"{heads} query and {kv_heads} kv heads lie as {self.heads} and {self.kv_heads}"
        often = "once" if self.copies == 1 else f"{self.copies} times"
        zeros = self.heads > heads or self.kv_heads > self.copies * kv_heads
        return f"{laid}, each kv head {often}" + ", the rest zeros" * zeros

    @property
    def sources(self) -> dict[str, tuple[int, ...]]:
        """By axis letter, which published head each one is; their number stands for zeros."""
        heads, kv_heads = self.published
        each = heads // kv_heads
        query = [heads] * self.heads
        for kv_head in range(kv_heads):
            first = kv_head * self.copies * self.group  # copies are neighbours, and filled in turn
            query[first : first + each] = range(kv_head * each, (kv_head + 1) * each)
        kv = [min(place // self.copies, kv_heads) for place in range(self.kv_heads)]
        return {"N": tuple(query), "K": tuple(kv)}


@functools.cache
def cheapest_grouping(heads: int, kv_heads: int, ways: int) -> Grouping:
    """The one that `ways` devices can share out with the least weights; as published where it can.

    Weights grow with query and kv heads alike, as all have the same size (q and o, k and v).
    Among equals that of the fewest kv heads, which the cache grows with.
    """
    each = heads // kv_heads

    def grouping(group: int) -> Grouping:
        copies = -(-each // group)
        needed = -(-kv_heads * copies // ways) * ways
        return Grouping((heads, kv_heads), copies, needed, group)

    found = map(grouping, range(1, each + 1))
    return min(found, key=lambda one: (one.heads + one.kv_heads, one.kv_heads))


def grouping_of(config: ModelConfig, ways: int) -> Grouping:
    """That of a model on a model axis of so many devices."""
    return cheapest_grouping(config.heads, config.kv_heads, ways)


def laid_out(config: ModelConfig, ways: int) -> ModelConfig:
    """The sizes of a model as it lies on a model axis of so many devices: those of its arrays."""
    found = grouping_of(config, ways)
    return dataclasses.replace(config, heads=found.heads, kv_heads=found.kv_heads)


def to_mesh(leaf: Any, axes: str, config: ModelConfig, ways: int) -> Any:
    """A leaf of published heads, a numpy or jax array, as it lies on a model axis."""
    grouping = grouping_of(config, ways)
    letter = _letter(axes, grouping)
    if letter is None:
        return leaf
    pad = [(0, int(axis == letter)) for axis in axes]  # the head of zeros
    whole = _library(leaf).pad(leaf, pad)
    return _take(whole, grouping.sources[letter], axes.index(letter))


def to_published(leaf: Any, axes: str, config: ModelConfig, ways: int) -> Any:
    """The inverse of `to_mesh`: of each head its first copy."""
    grouping = grouping_of(config, ways)
    letter = _letter(axes, grouping)
    if letter is None:
        return leaf
    sources = grouping.sources[letter]
    firsts = [sources.index(head) for head in range(config.sizes[letter])]
    return _take(leaf, firsts, axes.index(letter))


def _letter(axes: str, grouping: Grouping) -> str | None:
    """The axis of heads that a leaf has, if it lies otherwise than it was published."""
    return next((x for x in axes if x in "NK" and not grouping.as_published), None)


def _take(leaf: Any, places: Any, axis: int) -> Any:
    return _library(leaf).take(leaf, np.asarray(places, np.int32), axis=axis)


def _library(leaf: Any) -> Any:
    return jnp if isinstance(leaf, jax.Array) else np
