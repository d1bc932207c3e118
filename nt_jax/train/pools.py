"""Records into the token examples that attribution and Algorithm 1 draw from.

Local and global data are disjoint in requests and in attack templates: the inner loop adapts on
attacks that the outer loss does not contain, so what is learned has to carry over.
"""

import dataclasses
import math
from collections.abc import Sequence

from nt_jax.data.prompts import Prompt
from nt_jax.data.records import AttackTemplate
from nt_jax.data.training import evenly, far_apart
from nt_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Pair:
    """A request and the answer to learn, the answer as token ids that end with EOS.

    A harmless request may come with `declined`: a refusal of it in the model's own words, which
    must not become likely.
    """

    request: Prompt
    answer: list[int]
    sounds_harmful: bool = False
    declined: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Pool:
    """What one of the four sets of Algorithm 1 draws from.

    Without `templates`, attacked pairs already hold their attack: their answers belong to it.
    """

    direct: Sequence[Pair]
    attacked: Sequence[Pair]
    templates: Sequence[AttackTemplate] = ()


@dataclasses.dataclass(frozen=True)
class Pools:
    """D_local and D_global for safety and utility (Algorithm 1, Require)."""

    local_safety: Pool
    global_safety: Pool
    local_utility: Pool
    global_utility: Pool


def cut(rows: Sequence, share: float) -> tuple[list, list]:
    """(local, global) parts of `rows`, interleaved so that kinds listed together are shared out.

    The local part holds `share` of them, rounded up; share lies in (0, 0.5].
    """
    due = [math.ceil(place * share - 1e-9) for place in range(len(rows) + 1)]  # 20 x 0.05 is 1
    parts: tuple[list, list] = ([], [])
    for row, before, now in zip(rows, due, due[1:], strict=False):
        parts[now == before].append(row)
    return parts


def emphasise(pairs: Sequence[Pair], share: float) -> list[Pair]:
    """`pairs` with those that only sound harmful repeated until they make up `share` of all."""
    hard = [pair for pair in pairs if pair.sounds_harmful]
    plain = len(pairs) - len(hard)
    missing = round(share * plain / (1 - share)) - len(hard) if hard else 0
    return [*pairs, *(hard[place % len(hard)] for place in range(missing))]


def make_pools(
    safety: Sequence[Pair],
    templates: Sequence[AttackTemplate],
    utility: Sequence[Pair],
    attacked_utility: Sequence[Pair],
    local_share: float,
    sounds_harmful_share: float = 0.0,
) -> Pools:
    """Disjoint local and global pools from the training split, `local_share` of it local."""
    for name, rows in (("harmful", safety), ("harmless", utility), ("templates", templates)):
        if len(rows) < 2:
            raise DataError(
                f"data.{name}: {len(rows)} usable training rows; Algorithm 1 needs at least 2, "
                "one for its local and one for its global set."
            )
    safe, attack, good, wrapped = (
        cut(rows, local_share) for rows in (safety, templates, utility, attacked_utility)
    )
    good = [emphasise(part, sounds_harmful_share) for part in good]
    if not wrapped[1]:  # one row: the outer loss needs it more
        wrapped = ([], attacked_utility)
    local, outer = ((Pool(safe[i], safe[i], attack[i]), Pool(good[i], wrapped[i])) for i in (0, 1))
    return Pools(local[0], outer[0], local[1], outer[1])


def undivided(pools: Pools) -> Pools:
    """`pools` whose global sets hold all there is: descent without an inner loop needs no cut."""

    def joined(local: Pool, outer: Pool) -> Pool:
        direct, attacked = [*local.direct, *outer.direct], [*local.attacked, *outer.attacked]
        return Pool(direct, attacked, [*local.templates, *outer.templates])

    safety = joined(pools.local_safety, pools.global_safety)
    utility = joined(pools.local_utility, pools.global_utility)
    return dataclasses.replace(pools, global_safety=safety, global_utility=utility)


def harmless_rows(pools: Pools) -> list[tuple[Prompt, list[int]]]:
    """(request, answer) rows of the preconditioner.

    Three for each harmless pair with a refusal of its own: its good answer, a refusal as the safety
    targets put it (of some harmful request: what must not spread), and a refusal in the model's own
    words. Each request counts once, however often a pool repeats it.
    """
    pairs = {
        pair.request: pair
        for pool in (pools.local_utility, pools.global_utility)
        for pair in (*pool.direct, *pool.attacked)
        if pair.declined
    }
    safety = (pools.local_safety, pools.global_safety)
    refusals = [pair.answer for pool in safety for pair in pool.direct]
    return [
        (pair.request, answer)
        for place, pair in enumerate(pairs.values())
        for answer in (pair.answer, refusals[place % len(refusals)], pair.declined)
    ]


def safety_rows(pools: Pools, count: int, direct_share: float) -> list[tuple[Prompt, list[int]]]:
    """(prompt, safety target) of `count` training requests, bare in the share that is tuned on.

    Neighbours get templates far apart; local and global requests keep to their own templates.
    """
    rows: list[tuple[Prompt, list[int]]] = []
    for pool in (pools.local_safety, pools.global_safety):
        stride = far_apart(len(pool.templates))
        for place, pair in enumerate(pool.attacked):
            bare = int((place + 1) * direct_share) > int(place * direct_share)
            template = None if bare else pool.templates[place * stride % len(pool.templates)]
            rows.append((template.apply(pair.request) if template else pair.request, pair.answer))
    return evenly(rows, count)
