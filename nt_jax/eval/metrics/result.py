"""ResultRow, one measured number; what rows are made of; and how both are kept and looked up."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nt_jax.data.prompts import of_json, text_of
from nt_jax.seal import reading

if TYPE_CHECKING:
    from nt_jax.generate.chat import ChatModel

BASE, TUNED = "base", "tuned"
DRAW = "~"  # between a request's id and the number of one of its drawn answers
Answer = Mapping[str, Any]
Choice = Mapping[str, Any]


@dataclass(frozen=True)
class ResultRow:
    """One number: rates in 0..1, entropies in bits, low..high a 95 % interval where there is one.

    `dataset` is "harmful+harmless" for su_f1, which needs both. `refusal_change` is a model's
    refusal rate less the base model's on the same prompts (-1..1), `mcnemar_p` the p of their
    paired test. `judge` is who gave the verdicts or, for perplexity and KL, the model that scored;
    `judge_sha256` tells its versions apart.
    """

    dataset: str
    metric: str
    model: str
    value: float
    n: int
    low: float | None = None
    high: float | None = None
    judge: str | None = None
    judge_sha256: str | None = None


@dataclass(frozen=True)
class Measurements:
    """All that is known of some models' answers; every row of a result is made of it.

    An answer has at least dataset, id (unique in its dataset), model, answer, refused, harmful;
    `prompt` differing from `request` marks an attack; `verdicts` holds a value in 0..1 for each of
    `judges` (name -> sha256), of whom the first made `refused` and everything that rests on it.
    A choice has dataset, id, model, key and, where measured, letter (the likeliest letter's number)
    and answer with parsed (the number read from it, None where none was: that is wrong). A row of
    `tasks` has dataset, id, model, metric and value, a score in 0..1 of one question.
    `class`, where there, is the first judge's of refusal, partial, compliance, empty, cannot tell.
    `scores` holds what a model said about answers, by metric.
    """

    answers: Sequence[Answer] = ()
    choices: Sequence[Choice] = ()
    judges: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    tasks: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def groups(self) -> dict[tuple[str, str], list[Answer]]:
        """Answers by (dataset, model), in order of first appearance."""
        return grouped(self.answers)

    @property
    def first_judge(self) -> tuple[str | None, str | None]:
        """(name, sha256) of the judge behind `refused`."""
        return next(iter(self.judges.items()), (None, None))


class Column(NamedTuple):
    """How a metric's numbers are shown in a table."""

    label: str
    template: str
    names_scorer: bool = False  # whether the label says which model scored


class Metric(Protocol):
    """What a module of this folder offers; nt_jax/config/registry.py lists them.

    One that needs a model beside the answers also has `score`, see nt_jax/eval/measure.py.
    """

    COLUMNS: Mapping[str, Column]

    def rows(self, measured: Measurements) -> list[ResultRow]:
        """The metric's numbers for every test set and model that has them."""
        ...


def write_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Write rows as a JSON list, one row a line so that two files can be compared."""
    lines = ",\n".join("  " + json.dumps(asdict(row), allow_nan=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def read_rows(path: Path) -> list[ResultRow]:
    """The rows of a results.json."""
    with reading(path):
        return [ResultRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def find(
    rows: Iterable[ResultRow], dataset: str, metric: str, model: str, judge: str | None = None
) -> ResultRow | None:
    """The first row of that dataset, metric, model (and judge, where given), or None."""
    same = (row for row in rows if (row.dataset, row.metric, row.model) == (dataset, metric, model))
    return next((row for row in same if judge in (None, row.judge)), None)


def in_order(values: Iterable[Any]) -> list[Any]:
    """The distinct values in order of first appearance."""
    return list(dict.fromkeys(values))


def grouped(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list]:
    """Records by (dataset, model), in order of first appearance."""
    groups: dict[tuple[str, str], list] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["model"]), []).append(row)
    return groups


def is_attacked(answer: Answer) -> bool:
    """Whether the model saw more than the bare request."""
    prompt = answer.get("prompt")
    return prompt is not None and text_of(of_json(prompt)) != answer.get("request")


def answered(model: "ChatModel", answer: Answer) -> list[int]:
    """Token ids of what the answer stands behind: the prompt and the words that it went on from."""
    return model.encode(of_json(answer["prompt"])) + model.opening(answer.get("prefill", ""))


def answer_ids(model: "ChatModel", answer: Answer) -> list[int]:
    """Token ids of the answer itself, without a tag of reasoning that the prompt ends with."""
    return model.opening(answer["answer"].removeprefix(model.chat.opened))


def per_request(answers: Sequence[Answer], values: ArrayLike) -> NDArray[np.float64]:
    """`values` [answers, ...] as means over the draws of each request, in order of appearance.

    Each counts once, also where not all of its draws were answered; intervals go by request.
    """
    rows, places = np.asarray(values, float), {}
    if not any("draw" in answer for answer in answers):
        return rows
    for place, answer in enumerate(answers):
        request = answer["dataset"], answer["id"].rpartition(DRAW)[0]
        places.setdefault(request, []).append(place)
    return np.array([rows[mine].mean(axis=0) for mine in places.values()])


def paired(first: Sequence[Answer], second: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    """Records of two models about the same question, in the order of `second`."""
    by_record = {(answer["dataset"], answer["id"]): answer for answer in first}
    found = [(by_record.get((answer["dataset"], answer["id"])), answer) for answer in second]
    return [(match, answer) for match, answer in found if match is not None]


def verdict(answer: Answer, judge: str | None) -> float:
    """What that judge says: 1 refused, 0 not, between them where it cannot tell."""
    said = answer.get("verdicts") or {}
    return float(said[judge] if judge in said else answer["refused"])


def first_verdict(answer: Answer) -> float:
    """What the first judge says, as `verdict`."""
    return verdict(answer, next(iter(answer.get("verdicts") or {}), None))
