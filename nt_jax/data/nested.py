"""Attacks inside attacks: long ones, made of the short ones that data hold.

Attacks of other hands are longer, and what a model has learned of short ones carries over to them
as a readiness to refuse whatever stands inside (docs/tuning.md). These are longer as well.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from nt_jax.data.attacks import far_apart
from nt_jax.data.records import SLOT, AttackTemplate

MOST_WORDS = 120  # of a nested attack; templates of more than half as many are not nested
LONG = 20  # templates that the longest nested attack is looked for among


def nested(templates: Sequence[AttackTemplate], count: int, turn: int = 0) -> list[AttackTemplate]:
    """`count` attacks, each of two or three templates around each other, all taken in turn.

    A third is left out where there would be more than MOST_WORDS. Another `turn` gives other ones,
    where there are many. [] where fewer than two templates are short, with one slot.
    """
    short = nestable(templates)
    if len(short) < 2:
        return []
    size, stride, found = len(short), far_apart(len(short)), []
    for n in range(count):
        first = n * stride + turn
        apart = 1 + (first + n // size) % max(1, (size - 1) // 2)  # so that three are different
        attack = inside(short[first % size], short[(first + apart) % size])
        if n % 2 and size > 2:
            longer = inside(attack, short[(first + 2 * apart) % size])
            attack = longer if words(longer) <= MOST_WORDS else attack
        found.append(attack)
    return found


def nestable(templates: Sequence[AttackTemplate]) -> list[AttackTemplate]:
    """Those that are nested: short ones, with one slot."""
    return [t for t in templates if words(t) <= MOST_WORDS // 2 and t.text.count(SLOT) == 1]


def longest(templates: Sequence[AttackTemplate]) -> list[AttackTemplate]:
    """The longest attack that `nested` may ever make of these, by its characters; [] of none."""
    most = sorted(nestable(templates), key=lambda t: len(t.text))[-LONG:]
    pairs = [inside(*pair) for pair in itertools.combinations(most, 2)]
    threes = [inside(inside(a, b), c) for a, b, c in itertools.combinations(most, 3)]
    found = [*pairs, *(each for each in threes if words(each) <= MOST_WORDS)]
    return sorted(found, key=lambda t: len(t.text))[-1:]


def inside(inner: AttackTemplate, outer: AttackTemplate) -> AttackTemplate:
    """The attack `inner` put where `outer` has its request."""
    text = outer.text.replace(SLOT, inner.text)
    return dataclasses.replace(outer, id=f"{outer.id}+{inner.id}", text=text)


def words(template: AttackTemplate) -> int:
    """How many words its text has, the slot among them."""
    return len(template.text.split())
