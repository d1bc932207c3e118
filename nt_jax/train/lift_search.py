"""Which lifts are looked at: halving on all sides at once, then above the highest.

Refusals of every kind of a side rise with its lift (nt_jax/train/level.py), so the highest within
the limits is found in few looks, each of which asks every validation prompt.
"""

from collections.abc import Callable, Mapping, Sequence

from nt_jax.config.method import TuneConfig
from nt_jax.train.validate import IN_ATTACK, NESTED, over_limits

ABOVE = 3  # times the distance of the highest two lifts, beyond them, at first
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
    """`best` with sides that stand at the highest of their `lifts` raised beyond it.

    A model that refuses much by itself may end its epochs far from a refusal, with room on all
    sides. Those that the score asks for (`lesser`) are raised, by ABOVE times the distance of
    their highest two lifts; where that takes them too far, or the score no further, by half of it,
    and by halves from there on, until `looked`, which each look is added to, holds `most`.
    """
    least = [each[-1] - each[-2] if len(each) > 1 else 0.0 for each in lifts]
    pairs = zip(lifts, best, least, strict=True)
    whole = [ABOVE * size * (nats == each[-1]) for each, nats, size in pairs]
    steps = [*whole]
    while len(looked) < most and not any(past(looked[best])):
        asked = lesser(looked[best])
        left = zip(steps, asked, least, strict=True)
        by = [step if mine and step >= size else 0.0 for step, mine, size in left]
        nats = tuple(round(n + step, 6) for n, step in zip(best, by, strict=True))
        stuck = any(mine and not step for mine, step in zip(asked[:2], by, strict=False))
        if stuck or nats in looked:  # a side that is asked for can't rise; lifts are of one size
            break
        looked[nats] = look(nats)
        too_far = [step > 0 and far for step, far in zip(by, past(looked[nats]), strict=True)]
        worth_it = looked[nats]["score"] > looked[best]["score"]
        if not any(too_far) and not worth_it:
            too_far = [step > 0 for step in by]
        for side, step in enumerate(by):
            if too_far[side] or 0 < step < whole[side]:
                steps[side] = step / 2
        best = best if any(too_far) else nats
    return best


def lesser(row: Mapping[str, float]) -> tuple[bool, bool, bool]:
    """Which sides a higher score (`worth` in validate.py) asks for: bare, attacked, nested.

    What raises the greater of refusals under attack and of direct ones raises those of harmless
    requests with them, and not the score.
    """
    direct, attacked = row["refusal_direct"], row["refusal_attack"]
    return direct <= attacked, attacked <= direct, attacked <= direct


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
