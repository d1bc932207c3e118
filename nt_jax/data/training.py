"""The records to tune on and those to validate on, and the orders in which they are taken."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from nt_jax.config.base import DatasetConfig
from nt_jax.config.schema import DataConfig
from nt_jax.data.attacks import (
    PARTS,
    attack_of,
    check_enough,
    derived_templates,
    divide_attacked,
    far_apart,
)
from nt_jax.data.nested import longest as longest_nested
from nt_jax.data.prompts import Prompt, plain_text
from nt_jax.data.records import AttackTemplate, Encode, HarmfulRequest, HarmlessRequest
from nt_jax.data.sources import load_harmful, load_harmless, load_templates
from nt_jax.data.splits import divide
from nt_jax.errors import DataError

Item = TypeVar("Item")
Request = TypeVar("Request", HarmfulRequest, HarmlessRequest)
Parts = dict[str, "Records"]  # by PARTS


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of one split."""

    harmful: list[HarmfulRequest]
    harmless: list[HarmlessRequest]
    templates: list[AttackTemplate]
    paired: list[HarmfulRequest] = dataclasses.field(default_factory=list)
    """rows whose source paired them with an attack, where those are tuned on (data.attacks)"""

    @property
    def added_templates(self) -> list[AttackTemplate]:
        """The templates that are not those of `paired`."""
        own = {attack_of(row) for row in self.paired}
        return [template for template in self.templates if template.id not in own]

    @property
    def requests(self) -> list[str]:
        """The texts of the bare requests, harmful ones first."""
        return [row.request for row in (*self.harmful, *self.harmless)]

    def in_attacks(self, requests: Sequence[Prompt]) -> list[tuple[AttackTemplate, Prompt]]:
        """Each request inside one template; neighbours get templates far apart, all are used.

        Raises a DataError where there are requests and no template.
        """
        if not requests:
            return []
        if not self.templates:
            raise DataError("there are no attack templates to put requests into (data.templates).")
        stride = far_apart(len(self.templates))
        around = [self.templates[n * stride % len(self.templates)] for n in range(len(requests))]
        return [(t, t.apply(request)) for t, request in zip(around, requests, strict=True)]

    def attacked(self, requests: Sequence[Prompt]) -> list[Prompt]:
        """The prompts of `in_attacks`."""
        return [prompt for _, prompt in self.in_attacks(requests)]

    def under_attack(self, requests: Sequence[Prompt]) -> list[Prompt]:
        """Each harmful request inside an attack that its source gives it, else in a template."""
        own: dict[Prompt, list[Prompt]] = {}
        for row in self.paired:
            own.setdefault(row.prompt, []).append(row.attacked or "")
        wrapped = enumerate(self.attacked(requests))
        texts = [(place, own.get(requests[place], [text])) for place, text in wrapped]
        return [every[place % len(every)] for place, every in texts]


def read_records(data: DataConfig = DataConfig(), notes: list[str] | None = None) -> Parts:
    """The records to tune on and those to validate on; those of the demo unless told.

    To `notes` a line is added on each layout that leaves columns of a file aside.

    Under `data.attacks` = records or both, attacks come from the harmful rows themselves: the two
    parts then share neither attacks nor requests.
    """
    harmful = _read(load_harmful, data.harmful, notes=notes)
    harmless = each_request_once(_read(load_harmless, data.harmless, notes=notes))
    choice = attack_source(harmful, data.attacks)
    if choice == "templates":
        once = each_question_once(harmful)
        sides = {part: divide(once, part, "harmful") for part in PARTS}
    else:
        sides = divide_attacked(harmful)
        check_enough(sides)
    own = {part: derived_templates(sides[part]) if choice != "templates" else [] for part in PARTS}
    around = _read(load_templates, data.templates) if choice != "records" else []
    known = {(template.id, template.text) for part in PARTS for template in own[part]}
    around = [t for t in around if not any(t.id == name or t.text == text for name, text in known)]
    return {
        part: Records(
            harmful=sides[part] if choice == "templates" else each_request_once(sides[part]),
            harmless=divide(harmless, part, "harmless"),
            templates=own[part] + (divide(around, part, "templates") if around else []),
            paired=[row for row in sides[part] if row.attacked and choice != "templates"],
        )
        for part in PARTS
    }


def _read(load: Callable, at: DatasetConfig, **more: list[str] | None) -> list:
    return load(at.source, at.split, at.limit, columns=at.columns, **more)


def attack_source(harmful: Sequence[HarmfulRequest], wanted: str) -> str:
    """records, templates or both: `wanted` (data.attacks), with auto settled by the rows.

    auto takes the records' own attacks where half of the rows hold one.
    """
    if wanted != "auto":
        return wanted
    return (
        "records" if 2 * sum(bool(row.attacked) for row in harmful) >= len(harmful) else "templates"
    )


def attack_line(parts: Parts) -> str:
    """Where the attacks of a run come from, in one line."""
    told = []
    for part, records in parts.items():
        if records.paired:
            attacks = len({attack_of(row) for row in records.paired})
            told.append(f"{len(records.paired):,} prompts of {attacks} attacks for {part}")
    added = len(parts["train"].added_templates)
    if not told:
        return f"templates, {added} for train"
    both = f"; and {added} templates" if added else ""
    return f"the records' own, {', '.join(told)}{both}"


def each_request_once(rows: Iterable[Request]) -> list[Request]:
    """The first row of each request; of a conversation its messages count, not the last alone."""
    first: dict[Prompt, Request] = {}
    for row in rows:
        first.setdefault(row.prompt, row)
    return list(first.values())


def each_question_once(rows: Sequence[HarmfulRequest]) -> list[HarmfulRequest]:
    """The first row of each question, which a file may hold once for each attack (SafeEdit).

    Attacks then come from `data.templates`; repeats would lie on both sides of every cut. A bare
    row is kept in each split that holds it, unless an attacked one stands for it there:
    repeat_lines() says so.
    """
    first: dict[tuple[Prompt, str | None], HarmfulRequest] = {}
    for row in rows:
        first.setdefault((row.prompt, None if row.attacked else row.split), row)
    held = {(row.prompt, row.split) for row in first.values() if row.attacked}
    kept = first.values()
    return [row for row in kept if row.attacked or (row.prompt, row.split) not in held]


def without_tests(
    parts: Parts, asked: Iterable[str], attacks: Iterable[str], texts: Iterable[str]
) -> tuple[Parts, int, int]:
    """`parts` without what test sets ask, and how many (rows, attacks) those were.

    `asked` are requests; `attacks` names and `texts` templates of attacks. Raises a DataError where
    a part keeps none of a kind.
    """
    known, called, around = ({plain_text(text) for text in t} for t in (asked, attacks, texts))
    left, rows_out, attacks_out = {}, 0, 0

    def shared(template: AttackTemplate) -> bool:
        return plain_text(template.id) in called or plain_text(template.text) in around

    for part, records in parts.items():
        gone = {template.id for template in records.templates if shared(template)}
        kept: dict[str, list] = {
            name: [row for row in getattr(records, name) if plain_text(row.request) not in known]
            for name in ("harmful", "harmless", "paired")
        }
        rows_out += sum(len(getattr(records, n)) - len(kept[n]) for n in ("harmful", "harmless"))
        names = {attack_of(row) for row in kept["paired"]}
        gone |= {name for name in names if plain_text(name) in called}
        attacks_out += len(gone)
        kept["paired"] = [row for row in kept["paired"] if attack_of(row) not in gone]
        kept["templates"] = [t for t in records.templates if t.id not in gone]
        for name, rows in kept.items():
            if getattr(records, name) and not rows:
                raise DataError(
                    f"data.{name.replace('paired', 'harmful')}: test sets ask all rows for {part}, "
                    "or use their attacks. Give others, or set data.leave_out_tests=false."
                )
        left[part] = Records(**kept)
    return left, rows_out, attacks_out


def data_hash(parts: Mapping[str, Records]) -> str:
    """sha256 over every record, so that a run never reuses work made from other data."""
    rows = {part: dataclasses.asdict(records) for part, records in parts.items()}
    text = json.dumps(rows, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def evenly(rows: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the rows, at even distances over all of them and in their order."""
    count = min(count, len(rows))
    return [rows[len(rows) * n // count] for n in range(count)]


def check_prompts(
    encode: Encode, parts: Mapping[str, Records], context: int, answer: int, by: str = ""
) -> None:
    """Raises a DataError for the first prompt that leaves no room for `answer` tokens in `context`.

    `by`: the setting that says so many. Each template is tried around the longest request, which
    some later batch may well draw, and so is the longest attack of templates inside each other,
    which validation may ask.
    """
    lower = f", or lower {by}" if by else ""

    def check(where: str, prompt: Prompt) -> None:
        try:
            tokens = len(encode(prompt))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if tokens > context - answer:
            raise DataError(
                f"{where}: the prompt has {tokens} tokens; with {answer} of its answer it does not "
                f"fit the model's context of {context}. Shorten or drop it{lower}."
            )

    for records in parts.values():
        for name, rows in (("harmful", records.harmful), ("harmless", records.harmless)):
            for row in rows:
                check(f"data.{name}, row {row.id}", row.prompt)
        for row in records.paired:
            check(f"data.harmful, row {row.id} in its attack", row.attacked or "")
        rows = [*records.harmful, *records.harmless]
        longest = max(rows, key=lambda row: len(encode(row.prompt)))
        longer = [] if records.paired else longest_nested(records.templates)
        for template in (*records.templates, *longer):
            where = f"data.templates, row {template.id} around the longest request ({longest.id})"
            check(where, template.apply(longest.prompt))
