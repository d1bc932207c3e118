"""Records into the token examples that attribution and Algorithm 1 draw from.

Local and global data are disjoint in requests and in attack templates: the inner loop adapts on
attacks that the outer loss does not contain, so what is learned has to carry over. A regression
(outer.py) looks at the prompts of both.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from nt_jax.data.attacks import far_apart, few_requests
from nt_jax.data.nested import nested
from nt_jax.data.prompts import Prompt
from nt_jax.data.records import AttackTemplate
from nt_jax.data.training import evenly
from nt_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Pair:
    """A request and the answer to learn, the answer as token ids; whole ones end with EOS.

    An attacked prompt names its `attack`, and where a source holds it as it is, the bare request
    that it is `about`.
    """

    request: Prompt
    answer: list[int]
    sounds_harmful: bool = False
    about: Prompt = ""
    attack: str = ""
    declined: Sequence[int] = ()  # an answer that must stay less likely


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
    attacked_safety: Sequence[Pair] = (),
) -> Pools:
    """Disjoint local and global pools from the training split, `local_share` of it local.

    `attacked_safety` are attacked prompts as the data hold them; `templates`, if any, are then put
    around as many requests besides.
    """
    needed = [("harmful", safety), ("harmless", utility)]
    for name, rows in needed if attacked_safety else [*needed, ("templates", templates)]:
        if len(rows) < 2:
            raise DataError(
                f"data.{name}: {len(rows)} usable training rows; Algorithm 1 needs at least 2, "
                "one for its local and one for its global set. Give more."
            )
    if attacked_safety:
        safe = held_pools(safety, attacked_safety, templates, local_share)
    else:
        requests, attack = cut(safety, local_share), cut(templates, local_share)
        safe = [Pool(rows, rows, around) for rows, around in zip(requests, attack, strict=True)]
    good = [emphasise(part, sounds_harmful_share) for part in cut(utility, local_share)]
    wrapped = _as_safety(attacked_utility, safe[0], local_share)
    if not wrapped[1]:  # one row: the outer loss needs it more
        wrapped = ([], attacked_utility)
    useful = [Pool(good[i], wrapped[i]) for i in (0, 1)]
    return Pools(safe[0], safe[1], useful[0], useful[1])


def _as_safety(pairs: Sequence[Pair], local: Pool, share: float) -> tuple[list, list]:
    """(local, global) parts of attacked harmless pairs: each with the attacks of its safety set.

    The outer loop takes those whose attack no safety set has (a source's own, left out there);
    where rows name no attack they are cut by `share`.
    """
    here = {template.id for template in local.templates} | {pair.attack for pair in local.attacked}
    here.discard("")
    if not here or not all(pair.attack for pair in pairs):
        return cut(pairs, share)
    parts = ([], [])
    for pair in pairs:
        parts[pair.attack not in here].append(pair)
    return parts


def held_pools(
    safety: Sequence[Pair],
    attacked: Sequence[Pair],
    templates: Sequence[AttackTemplate],
    local_share: float,
) -> list[Pool]:
    """(local, global) pools of attacked prompts as the data hold them.

    They share neither requests nor attacks: prompts whose request is on one side and whose attack
    is on the other are left out.
    """
    here = set(cut(list(dict.fromkeys(pair.attack for pair in attacked)), local_share)[0])
    drawn = {pair.request for pair in cut(safety, local_share)[0]}
    local = few_requests(((pair.about, pair.attack) for pair in attacked), here, drawn)
    pools = []
    for side, around in zip((True, False), cut(templates, local_share), strict=True):
        direct = [pair for pair in safety if (pair.request in local) == side]
        held = [p for p in attacked if (p.about in local) == side == (p.attack in here)]
        if not direct or not held:
            raise DataError(
                f"data.harmful: of {len(attacked)} attacked training prompts none is left for the "
                f"{'local' if side else 'global'} set of Algorithm 1, which shares neither requests"
                " nor attacks with the other. Give more attacks, or set data.attacks=templates."
            )
        pools.append(Pool(direct, held + _wrapped(direct, around, len(held))))
    return pools


def _wrapped(pairs: Sequence[Pair], around: Sequence[AttackTemplate], count: int) -> list[Pair]:
    """`count` of the pairs inside templates, all of both taken in turn; none without templates."""
    found = []
    for place in range(count if around else 0):
        pair, lap = pairs[place % len(pairs)], place // len(pairs)
        template = around[(place + lap) % len(around)]
        text = template.apply(pair.request)
        found.append(Pair(text, pair.answer, about=pair.request, attack=template.id))
    return found


def undivided(pools: Pools) -> Pools:
    """`pools` whose global sets hold all there is: descent without an inner loop needs no cut.

    Where both sides are one and the same already, so they stay.
    """
    if pools.local_safety is pools.global_safety:
        return pools

    def joined(local: Pool, outer: Pool) -> Pool:
        direct, attacked = [*local.direct, *outer.direct], [*local.attacked, *outer.attacked]
        return Pool(direct, attacked, [*local.templates, *outer.templates])

    safety = joined(pools.local_safety, pools.global_safety)
    utility = joined(pools.local_utility, pools.global_utility)
    return dataclasses.replace(pools, global_safety=safety, global_utility=utility)


def with_refusals(pools: Pools, whole: Mapping[Prompt, list[int]]) -> Pools:
    """`pools` with these refusals of bare requests in place of what they have there."""

    def full(pair: Pair) -> Pair:
        answer = whole.get(pair.about or pair.request, pair.answer)
        return dataclasses.replace(pair, answer=answer)

    def of(pool: Pool) -> Pool:
        return Pool([*map(full, pool.direct)], [*map(full, pool.attacked)], pool.templates)

    local, outer = of(pools.local_safety), of(pools.global_safety)
    return dataclasses.replace(pools, local_safety=local, global_safety=outer)


def safety_rows(pools: Pools, count: int, direct_share: float) -> list[tuple[Prompt, list[int]]]:
    """(prompt, safety target) of `count` training requests, bare in the share that is tuned on.

    Neighbours get attacks far apart; local and global requests keep to their own attacks, and those
    without any stay bare.
    """
    rows: list[tuple[Prompt, list[int]]] = []
    for pool in (pools.local_safety, pools.global_safety):
        attacked = {pair.about: pair for pair in attacked_once(pool)}
        for place, pair in enumerate(pool.direct):
            bare = int((place + 1) * direct_share) > int(place * direct_share)
            shown = pair if bare else attacked.get(pair.request, pair)
            rows.append((shown.request, shown.answer))
    return evenly(rows, count)


def under_attack(pool: Pool, turn: int = 0) -> list[tuple[Prompt, list[int]]]:
    """(prompt, safety target) of each of the pool's requests under one of its attacks."""
    return [(pair.request, pair.answer) for pair in attacked_once(pool, turn)]


def attacked_once(pool: Pool, turn: int = 0) -> list[Pair]:
    """Each of the pool's requests under one of its attacks, neighbours far apart.

    Another `turn` gives each request another attack. Where attacks come with the records, requests
    whose record has none are left out.
    """
    if pool.templates:
        count = len(pool.templates)
        step = far_apart(count)
        around = (pool.templates[(n * step + turn) % count] for n in range(len(pool.direct)))
        pairs = zip(around, pool.direct, strict=True)
        return [Pair(t.apply(p.request), p.answer, False, p.request, t.id) for t, p in pairs]
    held: dict[Prompt, list[Pair]] = {}
    for pair in pool.attacked:
        held.setdefault(pair.about, []).append(pair)
    every = enumerate(held[pair.request] for pair in pool.direct if pair.request in held)
    return [pairs[(place + turn) % len(pairs)] for place, pairs in every]


def nested_once(pool: Pool, turn: int = 0) -> list[Pair]:
    """Each of the pool's requests under one of its attacks inside others (nt_jax/data/nested.py).

    [] where the pool has no templates to nest.
    """
    around = nested(pool.templates, len(pool.direct), turn)
    pairs = zip(around, pool.direct if around else (), strict=True)
    return [Pair(t.apply(p.request), p.answer, False, p.request, t.id) for t, p in pairs]
