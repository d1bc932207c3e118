"""The published column layouts we read, as one table: add a row here rather than a branch there.

Column names are compared in lower case with underscores for spaces, so that "Best Answer" and
`best_answer` are one name.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from nt_jax.errors import DataError


@dataclass(frozen=True)
class Schema:
    """A layout: recognised by its columns, it says which column fills which field of a record."""

    name: str
    columns: tuple[str, ...]
    fields: dict[str, str]  # field -> column; "?" behind it: may be absent or empty; "a.b": nested
    below: str = ""  # a column whose text stands below the request, if it has any
    only: tuple[str, str] | None = None  # keep the rows with this value in this column
    constants: tuple[tuple[str, Any], ...] = ()
    # Of a layout that a user wrote: the fields that may not be empty. Columns may end in "?" there.
    needed: frozenset[str] | None = None

    def column(self, field: str) -> str:
        """The column that fills a field."""
        named = self.fields[field]
        return named.removesuffix("?") if self.needed is None else named

    def optional(self, field: str) -> bool:
        """Whether a field may be absent or empty."""
        if self.needed is not None:
            return field not in self.needed
        return self.fields[field].endswith("?")

    @property
    def known(self) -> set[str]:
        """The columns that it reads, or knows and leaves aside on purpose."""
        filled = [self.column(field) for field in self.fields]
        outer = (column.split(".")[0] for column in filled)
        return {*filled, *outer, *self.columns, self.below, "split"}


_OWN = {"id": "id?", "request": "request"}
_OWN_HARMLESS = _OWN | {"answer": "answer?", "sounds_harmful": "sounds_harmful?"}
_OWN_HARMFUL = _OWN | {
    "kind": "kind?",
    "attacked": "attacked?",
    "attack_types": "attack_types?",
    "attack": "attack?",
}
_LABELS = {"kind": "category?"}

# From the most specific to the least: the first whose columns are all there is taken.
HARMFUL = (
    Schema("nt_jax", ("request", "refusal"), _OWN_HARMFUL | {"refusal": "refusal?"}),
    Schema("nt_jax without refusals", ("request",), _OWN_HARMFUL),
    Schema(
        "conversations with refusals",
        ("messages", "refusal"),
        _OWN_HARMFUL | {"request": "messages", "refusal": "refusal?"},
    ),
    Schema("conversations", ("messages",), _OWN_HARMFUL | {"request": "messages"}),
    Schema(
        "SafeEdit",
        ("question", "adversarial_prompt", "safe_generation"),
        {
            "request": "question",
            "attacked": "adversarial_prompt",
            "refusal": "safe_generation",
            "kind": "unsafety_category?",
            "attack_types": "attack_category?",
            "attack": "attack_name?",
        },
    ),
    Schema(
        "SafeEdit_test_ALL",
        ("question", "input", "attack_name"),
        {
            "request": "question",
            "attacked": "input",
            "kind": "unsafety_category?",
            "attack": "attack_name?",
        },
    ),
    # AdvBench's target is the compliance an attacker wants, no refusal: it is left aside.
    Schema("AdvBench", ("goal", "target"), {"request": "goal"} | _LABELS),
    Schema("goal list", ("goal",), {"request": "goal"} | _LABELS),
    Schema("StrongREJECT", ("forbidden_prompt",), {"request": "forbidden_prompt"} | _LABELS),
    Schema(
        "safety-tuned-LLaMA",
        ("instruction", "output"),
        {"request": "instruction", "refusal": "output"},
        below="input",
    ),
    Schema("instruction list", ("instruction",), {"request": "instruction"}, below="input"),
    Schema(
        "prompt and response", ("prompt", "response"), {"request": "prompt", "refusal": "response"}
    ),
    Schema(
        "prompt and refusal", ("prompt", "refusal"), {"request": "prompt", "refusal": "refusal?"}
    ),
    Schema(
        "XSTest",
        ("prompt", "label"),
        {"request": "prompt", "kind": "type?"},
        only=("label", "unsafe"),
    ),
    Schema("MaliciousInstruct / prompt list", ("prompt",), {"request": "prompt"} | _LABELS),
    Schema("text list", ("text",), {"request": "text"}),
)
_SOUNDS = (("sounds_harmful", True),)
HARMLESS = (
    Schema("nt_jax", ("request",), _OWN_HARMLESS),
    Schema("conversations", ("messages",), _OWN_HARMLESS | {"request": "messages"}),
    Schema(
        "SafeEdit",
        ("knowledge_constrain",),
        {"request": "knowledge_constrain.prompt", "answer": "knowledge_constrain.answer?"},
    ),
    # Alpaca publishes a few rows with an empty output, so an answer may be missing here.
    Schema(
        "Alpaca / AlpacaEval",
        ("instruction", "output"),
        {"request": "instruction", "answer": "output?"},
        below="input",
    ),
    Schema(
        "Dolly",
        ("instruction", "context", "response"),
        {"request": "instruction", "answer": "response?"},
        below="context",
    ),
    Schema("instruction list", ("instruction",), {"request": "instruction"}, below="input"),
    Schema(
        "TruthfulQA", ("question", "best_answer"), {"request": "question", "answer": "best_answer"}
    ),
    Schema(
        "prompt and response", ("prompt", "response"), {"request": "prompt", "answer": "response"}
    ),
    Schema("prompt and answer", ("prompt", "answer"), {"request": "prompt", "answer": "answer?"}),
    Schema(
        "XSTest",
        ("prompt", "label"),
        {"request": "prompt"},
        only=("label", "safe"),
        constants=_SOUNDS,
    ),
    Schema("OR-Bench", ("prompt", "category"), {"request": "prompt"}, constants=_SOUNDS),
    Schema("OKTest / prompt list", ("prompt",), {"request": "prompt"}),
    Schema("goal list", ("goal",), {"request": "goal"}),
    Schema("text list", ("text",), {"request": "text"}),
)
CHOICE = (
    Schema(
        "MMLU",
        ("question", "choices", "answer"),
        {"request": "question", "choices": "choices", "key": "answer", "subject": "subject?"},
    ),
)


def plain_name(column: str) -> str:
    """The spelling under which columns are compared: lower case, underscores."""
    return column.strip().lower().replace(" ", "_")


def match(source: str, columns: Iterable[str], schemas: tuple[Schema, ...], wanted: str) -> Schema:
    """The first schema whose columns are all present; otherwise one error that lists them all."""
    found = list(columns)
    if (schema := first_of(found, schemas)) is not None:
        return schema
    names = {plain_name(column) for column in found}
    nearest = max(schemas, key=lambda schema: _likeness(schema.columns, names))
    known = "; ".join(f"{schema.name} ({', '.join(schema.columns)})" for schema in schemas)
    raise DataError(
        f"{source}: no known layout of {wanted} has these columns: {', '.join(found)}. "
        f"Nearest is {nearest.name} ({', '.join(nearest.columns)}). "
        f"Rename the columns to one of: {known}."
    )


def first_of(columns: Iterable[str], schemas: tuple[Schema, ...]) -> Schema | None:
    """The first schema whose columns are all present, if there is one."""
    names = {plain_name(column) for column in columns}
    return next((schema for schema in schemas if names.issuperset(schema.columns)), None)


def _likeness(columns: tuple[str, ...], names: set[str]) -> float:
    """How well the columns are met by the names, 0 to 1, near misses counting in part."""
    best = (
        max((SequenceMatcher(None, column, name).ratio() for name in names), default=0.0)
        for column in columns
    )
    return sum(best) / len(columns)


def own_schema(name: str, columns: Mapping[str, str], record: Any, needed: str) -> Schema:
    """A layout written by the user: field -> column; `needed` is the field that must be named."""
    every = [f for f in dataclasses.fields(record) if f.name not in ("split", "before")]
    known = [f.name for f in every]
    wrong = [field for field in columns if field not in known]
    if wrong or needed not in columns:
        what = f"'{wrong[0]}' is no field" if wrong else f"no column is named for '{needed}'"
        raise DataError(f"{name}: columns: {what}. Fields: {', '.join(known)}.")
    fields = {field: ".".join(map(plain_name, at.split("."))) for field, at in columns.items()}
    filled = frozenset(f.name for f in every if f.default is dataclasses.MISSING) - {"id"}
    return Schema("as in columns", tuple(fields.values()), fields, needed=filled)
