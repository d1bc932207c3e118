"""The records to tune on and those to validate on, and the orders in which they are taken."""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from nt_jax.config.schema import DataConfig
from nt_jax.data.records import AttackTemplate, HarmfulRequest, HarmlessRequest
from nt_jax.data.sources import load_harmful, load_harmless, load_templates
from nt_jax.data.splits import divide
from nt_jax.errors import DataError

Item = TypeVar("Item")
Parts = dict[str, "Records"]  # "train" and "validation"


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of one split."""

    harmful: list[HarmfulRequest]
    harmless: list[HarmlessRequest]
    templates: list[AttackTemplate]

    @property
    def requests(self) -> list[str]:
        """The bare requests, harmful ones first."""
        return [row.request for row in (*self.harmful, *self.harmless)]

    def attacked(self, requests: Sequence[str]) -> list[str]:
        """Each request inside one template; neighbours get templates far apart, all are used."""
        stride = far_apart(len(self.templates))
        return [
            self.templates[place * stride % len(self.templates)].apply(text)
            for place, text in enumerate(requests)
        ]


def read_records(data: DataConfig = DataConfig()) -> Parts:
    """The records to tune on and those to validate on; those of the demo unless told."""
    where = {name: getattr(data, name) for name in ("harmful", "harmless", "templates")}
    loaders = {"harmful": load_harmful, "harmless": load_harmless, "templates": load_templates}
    rows = {
        name: load(at.source, at.split, at.limit, columns=at.columns)
        for name, load in loaders.items()
        for at in (where[name],)
    }
    rows["harmful"] = each_question_once(rows["harmful"])
    return {
        part: Records(**{name: divide(records, part, name) for name, records in rows.items()})
        for part in ("train", "validation")
    }


def each_question_once(rows: Sequence[HarmfulRequest]) -> list[HarmfulRequest]:
    """`rows` without repeats of a question that a file holds once for each attack (SafeEdit).

    Attacks come from `data.templates`; repeats would lie on both sides of every cut.
    """
    seen: set[str] = set()
    kept = []
    for row in rows:
        if row.attacked is None or row.request not in seen:
            kept.append(row)
        if row.attacked is not None:
            seen.add(row.request)
    return kept


def data_hash(parts: Mapping[str, Records]) -> str:
    """sha256 over every record, so that a run never reuses work made from other data."""
    rows = {part: dataclasses.asdict(records) for part, records in parts.items()}
    text = json.dumps(rows, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def evenly(rows: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the rows, at even distances over all of them and in their order."""
    count = min(count, len(rows))
    return [rows[len(rows) * n // count] for n in range(count)]


def far_apart(count: int) -> int:
    """A stride of 5 or more that visits all of `count` places before it visits one again."""
    return next(n for n in itertools.count(5) if math.gcd(n, count) == 1)


def check_prompts(
    encode: Callable[[str], Sequence[int]], parts: Mapping[str, Records], context: int, answer: int
) -> None:
    """Raises a DataError for the first prompt that leaves no room for `answer` tokens in `context`.

    Each template is tried around the longest request, which some later batch may well draw.
    """

    def check(where: str, text: str) -> None:
        if (tokens := len(encode(text))) > context - answer:
            raise DataError(
                f"{where}: the prompt has {tokens} tokens; with {answer} of its answer it does not "
                f"fit the model's context of {context}. Shorten or drop it, or lower "
                "tune.answer_tokens."
            )

    for records in parts.values():
        for name, rows in (("harmful", records.harmful), ("harmless", records.harmless)):
            for row in rows:
                check(f"data.{name}, row {row.id}", row.request)
        rows = [*records.harmful, *records.harmless]
        longest = max(rows, key=lambda row: len(encode(row.request)))
        for template in records.templates:
            where = f"data.templates, row {template.id} around the longest request ({longest.id})"
            check(where, template.apply(longest.request))
