"""Records into the token examples and batches that attribution and Algorithm 1 use.

Local and global data are disjoint in requests and in attack templates: the inner loop adapts on
attacks that the outer loss does not contain, so what is learned has to carry over.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax

from nt_jax.data.batching import AnswerBatch, bucket, draw, pack
from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DataError
from nt_jax.mesh import sharding
from nt_jax.train.maml import Batches, MetaBatch

if TYPE_CHECKING:  # the numerical modules import without pydantic
    from nt_jax.config import TuneConfig

Encode = Callable[[str], list[int]]
LOCAL_SHARE = 0.25  # of the training requests and templates; the rest is global


@dataclasses.dataclass(frozen=True)
class Pair:
    """A request and the answer to learn, the answer as token ids that end with EOS."""

    request: str
    answer: list[int]
    sounds_harmful: bool = False


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


class Batcher:
    """Batches of Algorithm 1 as a pure function of (seed, epoch): a resumed run draws the same."""

    def __init__(self, pools: Pools, encode: Encode, tune: "TuneConfig", seed: int, mesh):
        self.pools, self.encode, self.tune, self.seed, self.mesh = pools, encode, tune, seed, mesh
        self.widths = {
            name: self._widths(getattr(pools, name))
            for name in ("local_safety", "global_safety", "local_utility", "global_utility")
        }

    def _widths(self, pool: Pool) -> dict[str, int]:
        """Prompt width per group: the longest that can be drawn, so that one program serves all."""
        direct = max((len(self.encode(p.request)) for p in pool.direct), default=0)
        if not pool.templates:
            attacked = max((len(self.encode(p.request)) for p in pool.attacked), default=0)
        else:
            longest = max((p.request for p in pool.attacked), key=lambda r: len(self.encode(r)))
            attacked = max(len(self.encode(t.apply(longest))) for t in pool.templates)
        return {"direct": bucket(direct), "attacked": bucket(attacked + 4)}

    @property
    def longest(self) -> int:
        """Tokens of the widest row, prompt and answer."""
        widths = [width for group in self.widths.values() for width in group.values()]
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
        tune = self.tune
        attacked = {"safety": 1 - tune.direct_fraction, "utility": tune.attacked_harmless_fraction}
        sizes = {"local": tune.local_batch, "global": tune.global_batch}
        sets = {
            f"{scope}_{side}": self._draw(f"{scope}_{side}", size, attacked[side], epoch)
            for scope, size in sizes.items()
            for side in attacked
        }
        return MetaBatch(**jax.device_put(sets, sharding(self.mesh, "B")))

    def _draw(self, name: str, size: int, attacked_share: float, epoch: int) -> Batches:
        pool: Pool = getattr(self.pools, name)
        step = self.mesh.shape["data"]  # both groups must split evenly over the data axis
        attacked = round(size * attacked_share / step) * step if pool.attacked else 0
        batches: list[AnswerBatch] = []
        for group, count in (("direct", size - attacked), ("attacked", attacked)):
            if count == 0:
                continue
            rows: Sequence[Pair] = getattr(pool, group)
            picked = [rows[i] for i in draw(self.seed, name + group, epoch, len(rows), count)]
            texts = [pair.request for pair in picked]
            if group == "attacked" and pool.templates:
                order = draw(self.seed, name + "template", epoch, len(pool.templates), count)
                texts = [
                    pool.templates[i].apply(text) for i, text in zip(order, texts, strict=True)
                ]
            batches.append(
                pack(
                    [self.encode(text) for text in texts],
                    [pair.answer for pair in picked],
                    prompt_width=self.widths[name][group],
                    answer_width=self.tune.answer_tokens,
                )
            )
        return tuple(batches)
