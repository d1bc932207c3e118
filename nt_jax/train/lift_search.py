"""Which lifts are looked at: halving on all sides at once, then above the highest.

Refusals of every kind of a side rise with its lift (nt_jax/train/level.py), so the highest within
the limits is found in few looks, each of which asks every validation prompt.
"""

from collections.abc import Callable, Mapping, Sequence

from nt_jax.config.method import TuneConfig
from nt_jax.train.validate import IN_ATTACK, NESTED, over_limits

ABOVE = 3  # times the distance of the highest two lifts, beyond them
FALLS = "fall_"
Nats = tuple[float, ...]  # of each side
Seen = dict[str, float]  # what a look gave
Past = Callable[[Seen], tuple[bool, ...]]  # on which sides something has risen too far


def searched(
    lifts: Sequence[Sequence[float]],
    look: Callable[[Nats], Seen],
    past: Past,
) -> tuple[dict[Nats, Seen], Nats]:
    """(what `look` gave of all nats that were looked at, in order; the highest within the limits).

    Each look halves what is left of each side's `lifts`, as many on each and in ascending order;
    `past` says on which of them something has risen too far. Then comes the highest of all sides
    that had not, and where they together have, once, the next lower one.
    """
    low, high, lowered = [0] * len(lifts), [len(lifts[0])] * len(lifts), False
    looked: dict[Nats, Seen] = {}
    while True:
        settled = low == high
        places = [(a + b) // 2 if a < b else max(a - 1, 0) for a, b in zip(low, high, strict=True)]
        nats = tuple(mine[place] for mine, place in zip(lifts, places, strict=True))
        if nats not in looked:
            looked[nats] = look(nats)
        too_far = past(looked[nats])
        if settled and (lowered or not any(too_far)):
            return looked, nats
        for side, down in enumerate(too_far):
            if settled and down:
                low[side] = high[side] = places[side]
            elif low[side] < high[side]:
                bounds = high if down else low
                bounds[side] = places[side] + (not down)
        lowered = settled


def raised(
    lifts: Sequence[Sequence[float]],
    best: Nats,
    looked: dict[Nats, Seen],
    look: Callable[[Nats], Seen],
    past: Past,
    most: int,
) -> Nats:
    """`best` with the sides that stand at the highest of their `lifts` raised beyond it.

    By ABOVE times the distance of the highest two at once, until something has risen too far or
    `looked`, which each look is added to, holds `most`. A model that refuses much by itself may end
    its epochs far from a refusal, with room on all sides.
    """
    up = [len(mine) > 1 and nats == mine[-1] for mine, nats in zip(lifts, best, strict=True)]
    if any(past(looked[best])):
        return best
    while any(up) and len(looked) < most:
        higher = (n + ABOVE * (each[-1] - each[-2]) for n, each in zip(best, lifts, strict=True))
        choice = zip(up, higher, best, strict=True)
        nats = tuple(round(high if more else n, 6) for more, high, n in choice)
        if nats in looked:  # no further: lifts of one size, or another side is past
            return best
        looked[nats] = look(nats)
        too_far = past(looked[nats])
        if not any(too_far):
            best = nats
        up = [more and not far for more, far in zip(up, too_far, strict=True)]
    return best


def past_rises(
    row: Mapping[str, float], asked: Mapping[str, int], config: TuneConfig
) -> tuple[bool, bool, bool]:
    """Whether something of bare, of attacked and of nested prompts has risen past its limit.

    What falls too far calls for a higher lift. Perplexity rises most as prompts inside attacks are
    parted from the others (docs/tuning.md), so it is theirs. A side without harmless prompts goes
    with the one before it.
    """
    inside, most = (IN_ATTACK, NESTED), config.max_over_refusal
    bare = {kind: count for kind, count in asked.items() if kind not in inside}
    risen = {name: value for name, value in row.items() if not name.startswith(FALLS)}
    alone = risen | {"perplexity_ratio": 1.0}

    def past(row: Mapping[str, float], asked: Mapping[str, int]) -> bool:
        return over_limits(row, asked, most) > 1e-9

    if not asked.get(IN_ATTACK):
        everywhere = past(risen, bare)
        return everywhere, everywhere, everywhere
    attacked = past(risen, {IN_ATTACK: asked[IN_ATTACK]})
    nested = past(alone, {NESTED: asked[NESTED]}) if asked.get(NESTED) else attacked
    return past(alone, bare), attacked, nested
