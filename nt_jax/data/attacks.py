"""Attacks that harmful records hold themselves: what names them, and how they are kept apart."""

import hashlib
import itertools
import math
from collections.abc import Iterable, Sequence

from nt_jax.data.prompts import Prompt, plain_text, text_of
from nt_jax.data.records import SLOT, AttackTemplate, HarmfulRequest
from nt_jax.data.splits import VALIDATION_PERCENT, bucket, split_of, splits_of, training_rows
from nt_jax.errors import DataError

Link = tuple[Prompt, str]  # a request and an attack around it
PARTS = ("train", "validation")


def attack_of(row: HarmfulRequest) -> str:
    """What names the attack of an attacked row: its name, else a hash of its text."""
    return row.attack or f"attack-{_digest(plain_text(_text(row)))[:8]}"


def derived_templates(rows: Iterable[HarmfulRequest]) -> list[AttackTemplate]:
    """One template for each attack that holds its request word for word, under the attack's name.

    Rows of one attack may differ elsewhere too; the first one counts.
    """
    found: dict[str, AttackTemplate] = {}
    for row in rows:
        literal = row.request in text_of(row.attacked or "")
        if literal and (name := attack_of(row)) not in found:
            found[name] = AttackTemplate(name, _text(row), row.attack_types)
    return list(found.values())


def far_apart(count: int) -> int:
    """A stride of 5 or more that visits all of `count` places before it visits one again."""
    return next(n for n in itertools.count(5) if math.gcd(n, count) == 1)


def few_requests(links: Iterable[Link], attacks: set[str], drawn: set[Prompt]) -> set[Prompt]:
    """The requests that go with `attacks`, the smaller of two sides.

    A request whose attacks all lie on one side goes there, so that no row of it is lost; of one
    that has attacks on both sides, or none, being `drawn` decides.
    """
    sides: dict[Prompt, set[bool]] = {}
    for request, attack in links:
        sides.setdefault(request, set()).add(attack in attacks)
    settled = {request for request, side in sides.items() if len(side) == 1}
    return {r for r in settled if sides[r] == {True}} | (drawn - settled)


def divide_attacked(rows: Sequence[HarmfulRequest]) -> dict[str, list[HarmfulRequest]]:
    """The rows "train" and "validation", which share neither attacks nor requests.

    Published splits are kept where that is true of them. Otherwise a hash of an attack's name and
    one of its request settle the side of each, and rows whose two sides differ are left out.
    """
    splits_of(rows, "harmful")  # told where only some rows name one
    published = {part: [row for row in rows if split_of(row) == part] for part in PARTS}
    if all(published.values()):
        if not _shared(*published.values()):
            return published
        rows = [row for part in PARTS for row in published[part]]
    else:
        rows = training_rows(rows, "harmful")
    links = [(plain_text(row.request), attack_of(row)) for row in rows if row.attacked]
    names = sorted({attack for _, attack in links}, key=_digest)
    held = set(names[: math.ceil(len(names) * VALIDATION_PERCENT / 100)] if len(names) > 1 else ())
    asked = {plain_text(row.request) for row in rows}
    drawn: set[Prompt] = {text for text in asked if bucket(text) < VALIDATION_PERCENT}
    few = few_requests(links, held, drawn)
    parts: dict[str, list[HarmfulRequest]] = {part: [] for part in PARTS}
    for row in rows:
        side = plain_text(row.request) in few
        if row.attacked is None or (attack_of(row) in held) == side:
            parts["validation" if side else "train"].append(row)
    return parts


def check_enough(parts: dict[str, list[HarmfulRequest]]) -> None:
    """Raises a DataError where too few attacks or requests are left to learn from and to check."""
    for part, needed in (("train", 2), ("validation", 1)):
        rows = [row for row in parts[part] if row.attacked]
        attacks, requests = {attack_of(row) for row in rows}, {row.request for row in rows}
        literal = len(derived_templates(rows))
        if min(len(attacks), len(requests)) < needed or not literal:
            raise DataError(
                f"data.attacks=records: for {part}, data.harmful has {len(requests)} requests "
                f"inside {len(attacks)} attacks of its own, {literal} of which hold them word for "
                f"word; {needed} of each are needed. Give more rows, or set "
                "data.attacks=templates."
            )


def _shared(one: Sequence[HarmfulRequest], other: Sequence[HarmfulRequest]) -> bool:
    def known(rows: Sequence[HarmfulRequest]) -> tuple[set[str], set[str]]:
        attacks = {attack_of(row) for row in rows if row.attacked}
        return attacks, {plain_text(row.request) for row in rows}

    return any(mine & theirs for mine, theirs in zip(known(one), known(other), strict=True))


def _text(row: HarmfulRequest) -> str:
    """The attack with a slot in place of the request, where it holds that word for word."""
    return text_of(row.attacked or "").replace(row.request, SLOT)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
