"""From test sets to what is asked: prompts, and choice questions with their worked examples."""

import dataclasses
import hashlib
import itertools
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from nt_jax.config.base import DatasetConfig
from nt_jax.config.evaluation import EvalConfig
from nt_jax.config.test_sets import TestSet
from nt_jax.data.prompts import KEEP, Prompt, forged
from nt_jax.data.records import AttackTemplate, ChoiceQuestion, HarmfulRequest, HarmlessRequest
from nt_jax.data.sources import load_choices, load_harmful, load_harmless, load_templates
from nt_jax.errors import ConfigError, DataError
from nt_jax.eval.metrics.result import DRAW

Row = TypeVar("Row", HarmfulRequest, HarmlessRequest, ChoiceQuestion)
Asked = TypeVar("Asked", "TestPrompt", "TestChoice")
LOADERS = {"harmful": load_harmful, "harmless": load_harmless, "choice": load_choices}


@dataclasses.dataclass(frozen=True)
class TestPrompt:
    """One test prompt: the bare request, what the model is shown, and what set it belongs to."""

    __test__ = False  # pytest would take the name for a test class

    dataset: str
    id: str
    request: str
    prompt: Prompt
    harmful: bool
    template: str = ""
    types: tuple[str, ...] = ()
    prefill: str = ""  # the words that the answer is made to begin with
    draw: int | None = None  # which of several answers to the request; its id ends with it
    sounds_harmful: bool = False  # harmless, and marked as what only sounds like the other kind

    def record(self) -> dict[str, Any]:
        """What is asked; without what is seldom asked for, unless it is."""
        known, seldom = dataclasses.asdict(self), {"prefill": "", "draw": None}
        del known["sounds_harmful"]  # no part of the question: `measure` adds it
        return {k: v for k, v in known.items() if k not in seldom or v != seldom[k]}

    def drawn(self, draw: int) -> "TestPrompt":
        """The same for one of its answers."""
        return dataclasses.replace(self, id=f"{self.id}{DRAW}{draw}", draw=draw)

    @property
    def stream(self) -> int:
        """Its random stream: a number below 2**31, whatever else is asked, and of whom."""
        return zlib.crc32(f"{self.dataset} {self.id}".encode()) >> 1


@dataclasses.dataclass(frozen=True)
class TestChoice:
    """One choice question of a set, and the worked examples to show before it."""

    __test__ = False

    dataset: str
    question: ChoiceQuestion
    shots: tuple[ChoiceQuestion, ...] = ()

    @property
    def id(self) -> str:
        """The question's id."""
        return self.question.id


@dataclasses.dataclass(frozen=True)
class Tests:
    """All that is asked."""

    __test__ = False

    prompts: list[TestPrompt]
    choices: list[TestChoice]

    def first(self, limit: int | None) -> "Tests":
        """The first `limit` of each test set."""
        return Tests(_first(self.prompts, limit), _first(self.choices, limit))


def _first(rows: Sequence[Asked], limit: int | None) -> list[Asked]:
    seen: Counter[tuple[str, int | None]] = Counter()
    kept = []
    for row in rows:
        each = row.dataset, getattr(row, "draw", None)
        seen[each] += 1
        if limit is None or seen[each] <= limit:
            kept.append(row)
    return kept


def read_tests(config: EvalConfig) -> Tests:
    """The prompts and questions of the sets that the settings name."""
    return Tests(test_prompts(config), test_choices(config))


def test_prompts(config: EvalConfig) -> list[TestPrompt]:
    """The prompts of all sets of requests that the settings name, at most `limit` of each.

    Each once, or once for every draw.
    """
    sets = {name: config.test_set(name) for name in config.datasets}
    every = [
        prompt
        for name, entry in sets.items()
        if entry.kind != "choice"
        for prompt in set_prompts(name, entry)[: config.limit]
    ]
    if config.draws == 1:
        return every
    return [prompt.drawn(draw) for draw in range(config.draws) for prompt in every]


def test_choices(config: EvalConfig) -> list[TestChoice]:
    """The questions of all choice sets that the settings name, at most `limit` of each."""
    found = []
    for name in dict.fromkeys(config.datasets):  # named twice, it is asked once
        entry = config.test_set(name)
        if entry.kind != "choice":
            continue
        questions = read_set(name, entry)[: config.limit]
        examples = worked_examples(config, entry)
        for question in questions:
            others = [e for e in examples.get(question.subject, ()) if not same(e, question)]
            shots = tuple(others[: entry.shots])
            if len(shots) < entry.shots:
                raise DataError(
                    f"{name}: {entry.shots_from} holds {len(shots)} worked examples for "
                    f"'{question.subject}', but shots = {entry.shots}."
                )
            found.append(TestChoice(name, question, shots))
    return found


def same(one: ChoiceQuestion, other: ChoiceQuestion) -> bool:
    """Whether both ask the same: a worked example would give the answer away."""
    return (one.request, one.choices) == (other.request, other.choices)


def read_set(name: str, entry: TestSet) -> list:
    """The records of a set that are for testing, in their order; of attacks, those with one."""
    left = _ordered(name, entry)[entry.hold_out :]
    attacked = entry.prompt == "attacked"
    rows = [row for row in left if not attacked or getattr(row, "attacked", None)][: entry.limit]
    if attacked and left and not rows:
        raise DataError(f"{name}: no row of {entry.source} holds an attacked request.")
    if not rows:
        raise DataError(
            f"{name}: all rows of {entry.source} are held out (hold_out = {entry.hold_out})."
        )
    return rows


def held_out(name: str, entry: TestSet) -> list:
    """The records that `hold_out` keeps from testing: anchors, or data to tune on."""
    return _ordered(name, entry)[: entry.hold_out]


def set_prompts(name: str, entry: TestSet) -> list[TestPrompt]:
    """The prompts of one set of requests."""
    found = [dataclasses.replace(row, prefill=entry.prefill) for row in _prompts(name, entry)]
    if entry.forged == KEEP:
        return [dataclasses.replace(row, prompt=forged(row.prompt)) for row in found]
    return found


def _prompts(name: str, entry: TestSet) -> list[TestPrompt]:
    rows = read_set(name, entry)
    harmful = entry.kind == "harmful"
    if entry.prompt == "attacked":
        return [
            TestPrompt(
                name, row.id, row.request, row.attacked, harmful, row.attack, row.attack_types
            )
            for row in rows
        ]
    marked = {row.id for row in rows if getattr(row, "sounds_harmful", False)}
    found = [
        TestPrompt(name, row.id, row.request, row.prompt, harmful, sounds_harmful=row.id in marked)
        for row in rows
    ]
    if entry.templates is None:
        return found
    templates = itertools.cycle(templates_of(entry.templates))
    return [
        dataclasses.replace(row, prompt=used.apply(row.prompt), template=used.id, types=used.types)
        for row, used in zip(found, templates, strict=False)
    ]


def worked_examples(config: EvalConfig, entry: TestSet) -> dict[str, list[ChoiceQuestion]]:
    """By subject, the questions that may stand before one of this set, in their order."""
    found: dict[str, list[ChoiceQuestion]] = {}
    if not entry.shots or entry.shots_from is None:
        return found
    try:
        source = config.test_set(entry.shots_from)
    except KeyError:
        raise ConfigError(f"shots_from = '{entry.shots_from}' names no test set.") from None
    if source.kind != "choice":
        raise ConfigError(f"shots_from = '{entry.shots_from}' is a {source.kind} set, no choice.")
    for question in read_set(entry.shots_from, source):
        found.setdefault(question.subject, []).append(question)
    return found


def tests_hash(tests: Tests, config: EvalConfig) -> str:
    """sha256 over all that is asked, so that answers to other questions are never reused."""
    rows = [row.record() for row in tests.prompts]
    rows += [dataclasses.asdict(row) for row in tests.choices]
    if config.temperature:
        rows.append({"temperature": config.temperature, "seed": config.draw_seed})
    asked = {row.dataset for row in tests.choices}  # by letter, in writing, or both
    rows += [{name: list(config.test_set(name).metrics)} for name in sorted(asked)]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def templates_of(at: DatasetConfig) -> list[AttackTemplate]:
    """The templates around a set's requests."""
    return load_templates(at.source, at.split, at.limit, at.columns)


def _ordered(name: str, entry: TestSet) -> list:
    """All records of a set, in the order that its seed gives."""
    columns, load = entry.columns or None, LOADERS[entry.kind]
    try:
        rows = load(entry.source, entry.split, columns=columns, undivided=True)
    except DataError as error:
        if entry.source == "demo" or Path(entry.source).expanduser().exists():
            raise
        raise DataError(
            f"test set {name}: {error} A copy of yours is read with eval.sources.{name}=FILE."
        ) from error
    if entry.distinct:
        first: dict[str, Any] = {}
        for row in rows:
            first.setdefault(row.request, row)
        rows = list(first.values())
    if entry.seed is not None:
        rows = by_hash(rows, entry.seed)
    if entry.hold_out and len(rows) <= entry.hold_out:
        raise DataError(
            f"{name}: {entry.source} has {len(rows)} rows, of which {entry.hold_out} are held out."
        )
    return rows


def by_hash(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows ordered by sha256("seed:request"): the same everywhere, whatever the row order."""

    def place(row: Row) -> tuple[str, str]:
        return hashlib.sha256(f"{seed}:{row.request}".encode()).hexdigest(), row.id

    return sorted(rows, key=place)


# pytest would take them for tests.
for _function in (test_prompts, test_choices, tests_hash):
    _function.__test__ = False  # type: ignore[attr-defined]
