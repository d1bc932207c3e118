"""Attacks inside attacks: long ones, made of the short ones that data hold.

Attacks of other hands are longer, and what a model has learned of short ones carries over to them
as a readiness to refuse whatever stands inside (docs/tuning.md). These are longer as well.
"""

import dataclasses
from collections.abc import Sequence

from nt_jax.data.attacks import far_apart
from nt_jax.data.records import SLOT, AttackTemplate

MOST_WORDS = 120  # of a nested attack; templates of more than half as many are not nested


def nested(templates: Sequence[AttackTemplate], count: int, turn: int = 0) -> list[AttackTemplate]:
    """`count` attacks, each of two or three templates around each other, all taken in turn.

    A third is left out where there would be more than MOST_WORDS. Another `turn` gives other ones.
    [] where fewer than two templates are short, with one slot.
    """
    short = [t for t in templates if words(t) <= MOST_WORDS // 2 and t.text.count(SLOT) == 1]
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


def inside(inner: AttackTemplate, outer: AttackTemplate) -> AttackTemplate:
    """The attack `inner` put where `outer` has its request."""
    text = outer.text.replace(SLOT, inner.text)
    return dataclasses.replace(outer, id=f"{outer.id}+{inner.id}", text=text)


def words(template: AttackTemplate) -> int:
    """How many words its text has, the slot among them."""
    return len(template.text.split())
