"""What was measured of a grid: a point for each cell and strength, on validation answers alone."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nt_jax.config.registry import PICKS
from nt_jax.eval.metrics.intervals import wilson
from nt_jax.train.strength import as_kept
from nt_jax.train.validate import (
    ATTACK,
    DIRECT,
    FALL_LIMIT,
    HARMLESS,
    IN_ATTACK,
    NESTED,
    PERPLEXITY_LIMIT,
    SOUNDS_HARMFUL,
    limits,
    over_limits,
    worth,
)

KINDS = (ATTACK, DIRECT, HARMLESS, SOUNDS_HARMFUL, IN_ATTACK, NESTED)


@dataclasses.dataclass(frozen=True)
class Point:
    """One cell at one strength, or the untuned model (no cell, strength 0)."""

    cell: str
    settings: Mapping[str, str]
    strength: float | None  # None: the factors of a validated epoch
    kept: bool  # whether tuning kept it
    warm: str  # the cell that it started from; "" for none
    rates: Mapping[str, float]  # a line of strengths.jsonl or metrics.jsonl
    asked: Mapping[str, int]  # prompts by kind
    number: int = 0  # in the table
    front: bool = False  # whether none refuses more under attack and no more harmless requests

    def rate(self, kind: str) -> tuple[float, float, float] | None:
        """(share refused, the ends of its 95 % interval); None where nothing was asked.

        Cells of earlier versions did not ask every kind.
        """
        if not self.asked.get(kind) or f"refusal_{kind}" not in self.rates:
            return None
        value, n = self.rates[f"refusal_{kind}"], self.asked[kind]
        return (value, *wilson(value * n, n))

    @property
    def place(self) -> tuple[float, float]:
        """Where it lies: (refusals under attack, refusals of plain harmless requests)."""
        return self.rates[f"refusal_{ATTACK}"], self.rates[f"refusal_{HARMLESS}"]

    @property
    def where(self) -> str:
        """Cell and strength in words."""
        if not self.cell:
            return "untuned"
        strength = "as validated" if self.strength is None else f"strength {self.strength:g}"
        return f"{words(self.settings)}, {strength}" + (
            f", warm from {self.warm}" if self.warm else ""
        )


def words(settings: Mapping[str, str]) -> str:
    """Settings as they were written."""
    return " ".join(f"{key}={value}" for key, value in settings.items())


def points_of(
    cell: str,
    settings: Mapping[str, str],
    train: Path,
    keep: str,
    asked: Mapping[str, int],
    warm: str = "",
) -> list[Point]:
    """Every strength of a tuned cell that was measured, and the epoch that it kept, if it did."""
    epochs = [row for row in read_lines(train / "metrics.jsonl") if "score" in row]
    strengths = read_lines(train / "strengths.jsonl")
    best = kept_row(epochs, strengths, keep)
    rows = [*strengths, *([best] if best is not None and best in epochs else [])]
    return [
        Point(cell, settings, row.get("strength"), row is best, warm, row, asked) for row in rows
    ]


def kept_row(epochs: Sequence[dict], strengths: Sequence[dict], keep: str) -> dict | None:
    """The line about the factors that tuning kept: what beats all before it, as tune and calibrate.

    With `keep` = last, the last validated epoch stands for all of them.
    """
    rows = [*(epochs[-1:] if keep == "last" else epochs), *strengths]
    best = None
    for row in rows:
        if best is None or as_kept(row["score"]) > as_kept(best["score"]):
            best = row
    return best


def untuned_point(train: Path, asked: Mapping[str, int]) -> Point:
    """The untuned model, as every cell has measured it."""
    row = next(row for row in read_lines(train / "metrics.jsonl") if row["epoch"] == 0)
    return Point("", {}, 0.0, False, "", row, asked)


def numbered(points: Sequence[Point]) -> list[Point]:
    """The points, those that refuse most under attack first, with numbers and the front marked."""
    order = sorted(points, key=lambda p: (-p.place[0], p.place[1]))
    return [
        dataclasses.replace(
            point, number=n, front=not any(_beats(other, point) for other in points)
        )
        for n, point in enumerate(order, 1)
    ]


def pick(points: Sequence[Point], choice: str, max_over_refusal: float) -> Point:
    """The point of a named choice, by the rule of `rule`.

    Of equals the one with the fewest plain requests refused, then with the most refusals under
    attack (or a point that another beats could be chosen), then the least strong.
    """
    share = PICKS[choice]

    def key(point: Point) -> tuple[float, float, float, float]:
        over = over_limits(point.rates, point.asked, max_over_refusal, share)
        value = worth(point.rates, over)
        return value, -point.place[1], point.place[0], -(point.strength or 0.0)

    return max(points, key=key)


def rule(choice: str, max_over_refusal: float) -> str:
    """How `pick` decides, in words."""
    share = PICKS[choice]
    most = limits(max_over_refusal)
    told = ", ".join(f"{kind.replace('_', ' ')} +{100 * share * most[kind]:g}" for kind in most)
    return (
        f"{choice}: the greatest lesser rate of refusals under attack and of direct harmful "
        f"requests within {share:g} x the limits of tuning (points of refusals: {told}, by "
        "one-sided 90 % bounds where the prompts suffice, else by estimates; harmful "
        f"-{100 * share * FALL_LIMIT:g}, by estimates; perplexity "
        f"x {1 + share * (PERPLEXITY_LIMIT - 1):g}); where nothing lies within, the nearest"
    )


def read_lines(path: Path) -> list[dict]:
    """The rows of a .jsonl file; none where there is no file."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _beats(one: Point, other: Point) -> bool:
    """Whether it is as good in both respects and better in one."""
    (more, wrong), (more_too, wrong_too) = one.place, other.place
    no_worse = more >= more_too and wrong <= wrong_too
    return no_worse and (more, wrong) != (more_too, wrong_too)
