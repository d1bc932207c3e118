"""Records into the token examples and batches that attribution and Algorithm 1 use.

Local and global data are disjoint in requests and in attack templates: the inner loop adapts on
attacks that the outer loss does not contain, so what is learned has to carry over.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax

from nt_jax.data.batching import AnswerBatch, bucket, draw, pack
from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DataError
from nt_jax.mesh import sharding
from nt_jax.train.maml import MetaBatch

if TYPE_CHECKING:  # the numerical modules import without pydantic
    from nt_jax.config import TuneConfig

Encode = Callable[[str], list[int]]
LOCAL_SHARE = 0.25  # of the training requests and templates; the rest is global
STRATA = 3  # at most, per kind of row: each is compiled on its own
WIDTH_STEP = 8  # prompt widths are multiples of this


@dataclasses.dataclass(frozen=True)
class Pair:
    """A request and the answer to learn, the answer as token ids that end with EOS.

    A harmless request may come with `declined`: a refusal of it in the model's own words, which
    must not become likely.
    """

    request: str
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


def cut(rows: Sequence, share: float = LOCAL_SHARE) -> tuple[list, list]:
    """(local, global) parts of `rows`, interleaved so that kinds listed together are shared out."""
    every = round(1 / share)
    local = [row for place, row in enumerate(rows) if place % every == 0]
    return local, [row for place, row in enumerate(rows) if place % every != 0]


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
    sounds_harmful_share: float = 0.0,
) -> Pools:
    """Disjoint local and global pools from the training split."""
    for name, rows in (("harmful", safety), ("harmless", utility), ("templates", templates)):
        if len(rows) < 2:
            raise DataError(
                f"data.{name}: {len(rows)} usable training rows; Algorithm 1 needs at least 2, "
                "one for its local and one for its global set."
            )
    safe, attack = cut(safety), cut(templates)
    good = [emphasise(part, sounds_harmful_share) for part in cut(utility)]
    wrapped = cut(attacked_utility) if len(attacked_utility) > 1 else ([], attacked_utility)
    local, outer = ((Pool(safe[i], safe[i], attack[i]), Pool(good[i], wrapped[i])) for i in (0, 1))
    return Pools(local[0], outer[0], local[1], outer[1])


def metric_rows(pools: Pools) -> list[tuple[str, list[int]]]:
    """(request, answer) rows of the metric: per harmless pair with a refusal of its own, three.

    Its good answer, a refusal as the safety targets put it (of some harmful request: what must not
    spread), and a refusal in the model's own words. Each request counts once, however often a pool
    repeats it.
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


def safety_rows(pools: Pools, count: int, direct_share: float) -> list[tuple[str, list[int]]]:
    """(prompt, safety target) of `count` training requests, bare in the share that is tuned on.

    Neighbours get templates far apart; local and global requests keep to their own templates.
    """
    rows: list[tuple[str, list[int]]] = []
    for pool in (pools.local_safety, pools.global_safety):
        for place, pair in enumerate(pool.attacked):
            bare = int((place + 1) * direct_share) > int(place * direct_share)
            template = None if bare else pool.templates[place * 5 % len(pool.templates)]
            rows.append((template.apply(pair.request) if template else pair.request, pair.answer))
    count = min(count, len(rows))
    return [rows[len(rows) * n // count] for n in range(count)]


@dataclasses.dataclass(frozen=True)
class Stratum:
    """Rows of like length that share a sub-batch, and the prompt width that holds the longest."""

    pairs: Sequence[Pair]
    templates: Sequence[AttackTemplate]  # put around the requests; none where they hold an attack
    width: int


def stratify(
    pairs: Sequence[Pair], templates: Sequence[AttackTemplate], encode: Encode, strata: int
) -> list[Stratum]:
    """`strata` groups of equal size by length, so that short prompts are not padded to long ones.

    Attacked requests are sorted by their template, which is the longer part.
    """
    length = lambda text: len(encode(text))  # noqa: E731
    if not templates:
        groups = _cut_evenly(sorted(pairs, key=lambda p: (length(p.request), p.request)), strata)
        return [Stratum(g, (), bucket(length(g[-1].request), WIDTH_STEP)) for g in groups]
    longest = max((pair.request for pair in pairs), key=length)
    ordered = sorted(templates, key=lambda t: (length(t.apply(longest)), t.id))
    groups = _cut_evenly(ordered, strata)
    # Where a template splits a word or meets a blank, tokens can merge: a little room for that.
    widths = [bucket(max(length(t.apply(longest)) for t in g) + 4, WIDTH_STEP) for g in groups]
    return [Stratum(pairs, group, width) for group, width in zip(groups, widths, strict=True)]


def _cut_evenly(rows: Sequence, parts: int) -> list[Sequence]:
    """`rows` in order, cut into at most `parts` groups whose sizes differ by at most 1."""
    parts = max(1, min(parts, len(rows)))
    edges = [len(rows) * part // parts for part in range(parts + 1)]
    return [rows[a:b] for a, b in itertools.pairwise(edges)]


class Batcher:
    """Batches of Algorithm 1 as a pure function of (seed, epoch): a resumed run draws the same.

    Every sub-batch draws from one stratum, whose width is fixed: one program serves all epochs.
    """

    def __init__(self, pools: Pools, encode: Encode, tune: "TuneConfig", seed: int, mesh):
        self.encode, self.tune, self.seed, self.mesh = encode, tune, seed, mesh
        safety = (pools.local_safety, pools.global_safety)
        self.refusals = [pair.answer for pool in safety for pair in pool.direct]
        attacked = {"safety": 1 - tune.direct_fraction, "utility": tune.attacked_harmless_fraction}
        sizes = {"local": tune.local_batch, "global": tune.global_batch}
        # name of a set > name of a sub-batch > (its rows per epoch, what they are drawn from)
        self.plan: dict[str, dict[str, tuple[int, Stratum]]] = {
            f"{scope}_{side}": self._plan(getattr(pools, f"{scope}_{side}"), size, attacked[side])
            for scope, size in sizes.items()
            for side in attacked
        }

    def _plan(self, pool: Pool, size: int, share: float) -> dict[str, tuple[int, Stratum]]:
        step = self.mesh.shape["data"]  # every sub-batch must split evenly over the data axis
        attacked = round(size * share / step) * step if pool.attacked else 0
        plan = {}
        for name, pairs, templates, count in (
            ("direct", pool.direct, (), size - attacked),
            ("attacked", pool.attacked, pool.templates, attacked),
        ):
            if count == 0:
                continue
            most = min(STRATA, len(templates or pairs))
            parts = max(n for n in range(1, most + 1) if count % (n * step) == 0)
            strata = stratify(pairs, templates, self.encode, parts)
            for place, stratum in enumerate(strata):
                plan[f"{name}{place}"] = count // len(strata), stratum
        return plan

    @property
    def longest(self) -> int:
        """Tokens of the widest row, prompt and answer."""
        widths = [s.width for plan in self.plan.values() for _, s in plan.values()]
        return max(widths) + self.tune.answer_tokens

    def check(self, max_positions: int) -> None:
        """Raises a DataError if the longest prompt leaves no room for its answer."""
        if self.longest > max_positions:
            prompt = self.longest - self.tune.answer_tokens
            raise DataError(
                f"the longest training prompt takes {prompt} tokens; with "
                f"tune.answer_tokens={self.tune.answer_tokens} it does not fit the model's context "
                f"of {max_positions}. Drop the longest attack templates or requests."
            )

    def batch(self, epoch: int) -> MetaBatch:
        """The local and global batches of one epoch, placed on the mesh."""
        sets = {
            name: tuple(
                self._draw(name + group, *rows, epoch) for group, rows in self.plan[name].items()
            )
            for name in self.plan
        }
        return MetaBatch(**jax.device_put(sets, sharding(self.mesh, "B")))

    def _draw(self, stream: str, count: int, stratum: Stratum, epoch: int) -> AnswerBatch:
        order = draw(self.seed, stream, epoch, len(stratum.pairs), count)
        picked = [stratum.pairs[row] for row in order]
        texts = [pair.request for pair in picked]
        if stratum.templates:
            order = draw(self.seed, stream + "template", epoch, len(stratum.templates), count)
            texts = [
                stratum.templates[row].apply(text) for row, text in zip(order, texts, strict=True)
            ]
        declined = None
        if self.tune.margin_weight > 0 and "utility" in stream:
            spare = [self.refusals[row % len(self.refusals)] for row in order]
            declined = [p.declined or other for p, other in zip(picked, spare, strict=True)]
        return pack(
            [self.encode(text) for text in texts],
            [pair.answer for pair in picked],
            declined=declined,
            prompt_width=stratum.width,
            answer_width=self.tune.answer_tokens,
        )
