"""The four cells of the decision: harmful or harmless requests, bare or inside an attack.

Refusals of attacked harmful requests alone teach what an attack is; of bare harmful ones, what its
words are. Cells of one size, with the same attacks around both kinds, leave the harm.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from nt_jax.data.prompts import Prompt
from nt_jax.data.training import evenly
from nt_jax.train.pools import Pair, Pool, Pools, attacked_once, nested_once, under_attack

ATTACKED_HARMFUL, HARMFUL = "attacked_harmful", "harmful"
ATTACKED_HARMLESS, HARMLESS = "attacked_harmless", "harmless"
CELLS = (ATTACKED_HARMFUL, HARMFUL, ATTACKED_HARMLESS, HARMLESS)
NESTED_HARMFUL, NESTED_HARMLESS = "nested_harmful", "nested_harmless"
NESTED = (NESTED_HARMFUL, NESTED_HARMLESS)  # inside attacks inside attacks: no step is made of them
OWN = "own"  # beside the cells: good answers to the prompts of both harmless ones
BEGINNINGS = "beginnings"  # and, of an epoch: how those to bare prompts begin
Item = TypeVar("Item")
Rows = list[tuple[Prompt, list[int]]]  # a prompt, an answer as token ids


def cell_rows(pools: Pools, count: int, turn: int = 0) -> dict[str, Rows]:
    """Refusals of at most `count` training prompts of each cell, and the own answers.

    Local and global requests keep to their own attacks. A source may have no attacked harmless
    prompts; then that cell is empty. Another `turn` puts other attacks around the requests, and
    takes other ones of any cell that has more than `count`.
    """
    safety = (pools.local_safety, pools.global_safety)
    direct = [(pair.request, pair.answer) for pool in safety for pair in pool.direct]
    attacked = [row for pool in safety for row in under_attack(pool, turn)]
    found = {
        ATTACKED_HARMFUL: _others(attacked, count, turn),
        HARMFUL: _others(direct, count, turn),
    }
    refusals = [answer for _, answer in found[HARMFUL]]  # the same words in every cell
    own: Rows = []
    for name in (ATTACKED_HARMLESS, HARMLESS):
        every = _once(pools, attacked=name == ATTACKED_HARMLESS)
        if turn and every and name == ATTACKED_HARMLESS:
            every = _in_other_attacks(pools, turn) or every
        pairs = _others(every, count, turn)
        found[name] = [(p.request, refusals[n % len(refusals)]) for n, p in enumerate(pairs)]
        own += [(pair.request, pair.answer) for pair in pairs]
    return found | {OWN: own}


def nested_rows(pools: Pools, count: int, turn: int = 0) -> dict[str, Rows]:
    """Refusals of at most `count` harmful and harmless training prompts inside nested attacks.

    Both are refused in the same words, as cells are. {} without templates to nest.
    """
    safety = (pools.local_safety, pools.global_safety)
    harmful = [pair for pool in safety for pair in nested_once(pool, turn)]
    harmless = _in_other_attacks(pools, turn, nested_once)
    if not harmful:
        return {}
    asked = _others(harmful, count, turn), _others(harmless, count, turn)
    answers = [pair.answer for pair in asked[0]]
    return {
        name: [(pair.request, answers[n % len(answers)]) for n, pair in enumerate(pairs)]
        for name, pairs in zip(NESTED, asked, strict=True)
    }


def _others(rows: Sequence[Item], count: int, turn: int) -> list[Item]:
    """At most `count` of the rows, evenly over them; each turn begins one row later.

    Rows that are met lie len(rows) / count apart, so turns share as few as they can.
    """
    start = turn % len(rows) if len(rows) > count else 0
    return evenly([*rows[start:], *rows[:start]], count)


def _in_other_attacks(
    pools: Pools, turn: int, once: Callable[[Pool, int], list[Pair]] = attacked_once
) -> list[Pair]:
    """Harmless requests in attacks of the safety sets, where those are templates."""
    sides = (pools.local_safety, pools.local_utility), (pools.global_safety, pools.global_utility)
    found: list[Pair] = []
    for safety, utility in sides:
        if safety.templates:
            bare = list({pair.request: pair for pair in utility.direct}.values())
            found += once(Pool(bare, (), safety.templates), turn)
    return found


def _once(pools: Pools, attacked: bool) -> list[Pair]:
    """Harmless pairs of one cell, each request once: pools repeat some on purpose."""

    def of(pool: Pool):
        return pool.attacked if attacked else pool.direct

    every = [*of(pools.local_utility), *of(pools.global_utility)]
    return list({pair.request: pair for pair in every}.values())
