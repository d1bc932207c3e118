"""Which lifts are looked at: halving on both sides at once, then above the highest.

Refusals of every kind of a side rise with its lift (nt_jax/train/level.py), so the highest within
the limits is found in few looks, each of which asks every validation prompt.
"""

from collections.abc import Callable, Mapping, Sequence

from nt_jax.config.method import TuneConfig
from nt_jax.train.validate import IN_ATTACK, over_limits

ABOVE = 3  # times the distance of the highest two lifts, beyond them
FALLS = "fall_"
Pair = tuple[float, float]  # nats of bare and of attacked prompts
Seen = dict[str, float]  # what a look gave
Past = Callable[[Seen], tuple[bool, bool]]  # on which sides something has risen too far


def searched(
    lifts: Sequence[float],
    look: Callable[[Pair], Seen],
    past: Past,
) -> tuple[dict[Pair, Seen], Pair]:
    """(what `look` gave of each pair that was looked at, in order; the highest within the limits).

    Each look halves what is left of `lifts`, in ascending order, on both sides; `past` says on
    which of them something has risen too far. Then comes the highest of both sides that had not,
    and where the two together have, once, the next lower one.
    """
    low, high, lowered = [0, 0], [len(lifts)] * 2, False
    looked: dict[Pair, Seen] = {}
    while True:
        settled = low == high
        places = [(a + b) // 2 if a < b else max(a - 1, 0) for a, b in zip(low, high, strict=True)]
        nats = (lifts[places[0]], lifts[places[1]])
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
    lifts: Sequence[float],
    best: Pair,
    looked: dict[Pair, Seen],
    look: Callable[[Pair], Seen],
    past: Past,
    most: int,
) -> Pair:
    """`best` with the sides that stand at the highest of `lifts` raised beyond it.

    By ABOVE times the distance of the highest two at once, until something has risen too far or
    `looked`, which each look is added to, holds `most`. A model that refuses much by itself may end
    its epochs far from a refusal, with room on all sides.
    """
    up = [len(lifts) > 1 and nats == lifts[-1] for nats in best]
    if any(past(looked[best])):
        return best
    while any(up) and len(looked) < most:
        step = ABOVE * (lifts[-1] - lifts[-2])
        bare, attacked = (round(n + step * more, 6) for n, more in zip(best, up, strict=True))
        if (bare, attacked) in looked:  # no further: lifts of one size, or the other side is past
            return best
        looked[bare, attacked] = look((bare, attacked))
        too_far = past(looked[bare, attacked])
        if not any(too_far):
            best = bare, attacked
        up = [more and not far for more, far in zip(up, too_far, strict=True)]
    return best


def past_rises(
    row: Mapping[str, float], asked: Mapping[str, int], config: TuneConfig
) -> tuple[bool, bool]:
    """Whether something of bare and of attacked prompts has risen past its limit.

    What falls too far calls for a higher lift. Without harmless prompts inside attacks the two
    sides go together.
    """
    risen = {name: value for name, value in row.items() if not name.startswith(FALLS)}
    inside = {kind: count for kind, count in asked.items() if kind == IN_ATTACK}
    bare = {kind: count for kind, count in asked.items() if kind != IN_ATTACK}
    most = config.max_over_refusal
    outside = over_limits(risen, bare, most) > 1e-9
    attacked = over_limits(risen | {"perplexity_ratio": 1.0}, inside, most) > 1e-9
    return outside, attacked if any(inside.values()) else outside
