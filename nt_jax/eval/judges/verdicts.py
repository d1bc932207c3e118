"""Verdicts on disk, each judge's in its own file, so that judging can go on where it stopped."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from nt_jax.eval.answer_file import RecordFile
from nt_jax.eval.failures import Marks, in_parts
from nt_jax.eval.judges.judge import Judge

WHY = ("class", "reason", "span")
BATCH = 64  # answers judged before their verdicts are brought to disk


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """What one judge said: a value in 0..1 per (dataset, id, model)."""

    judge: str
    sha256: str
    values: dict[tuple[str, str, str], float]
    reasons: dict[tuple[str, str, str], dict] = dataclasses.field(default_factory=dict)
    """class, reason and span of each answer, of a judge that can explain itself"""


def judge_answers(
    judge: Judge,
    answers: Sequence[dict],
    path: Path,
    advance: Callable[[int], None],
    marks: Marks | None = None,
) -> Verdicts:
    """The judge's verdict on each answer; those already in the file at `path` are not repeated.

    Those of another judge, or of other rules of this one, are not read. With `marks` a call that
    fails is marked, and its answer has no verdict; a judge that says nothing at all raises what it
    raised.
    """
    file = RecordFile(path, ("dataset", "id", "model", "sha256"))

    def missing(rows: Sequence[dict]) -> list[dict]:
        return [row for row in rows if (*_key(row), judge.sha256) not in file.rows]

    def ask(rows: Sequence[dict]) -> None:
        texts = [r["request"] for r in rows], [r["answer"] for r in rows]
        values, reasons = judge.verdicts(*texts), _reasons(judge, *texts)
        file.append([
            {"dataset": row["dataset"], "id": row["id"], "model": row["model"],
             "judge": judge.name, "sha256": judge.sha256, "verdict": float(value),
             **why}
            for row, value, why in zip(rows, values, reasons, strict=True)
        ])  # fmt: skip
        advance(len(rows))

    def known(row: dict) -> dict:
        return dict(zip(file.keys, (*_key(row), judge.sha256), strict=True)) | {"judge": judge.name}

    wanted = missing(answers)
    advance(len(answers) - len(wanted))
    for start in range(0, len(wanted), BATCH):
        in_parts(wanted[start : start + BATCH], missing, ask, marks, known)
    if marks is not None and wanted and len(missing(answers)) == len(answers):
        ask(wanted[:1])  # says why
    found = [file.rows[key] for row in answers if (key := (*_key(row), judge.sha256)) in file.rows]
    values = {_key(row): row["verdict"] for row in found}
    told = {_key(row): {name: row[name] for name in WHY} for row in found if WHY[0] in row}
    return Verdicts(judge.name, judge.sha256, values, told)


def with_verdicts(answers: Sequence[dict], verdicts: Sequence[Verdicts]) -> list[dict]:
    """The answers that have every judge's verdict, with these.

    "refused" is whether the first judge says so, and class, reason and span are its, where it
    explains itself.
    """
    rows = []
    for row in answers:
        if any(_key(row) not in one.values for one in verdicts):
            continue
        said = {one.judge: one.values[_key(row)] for one in verdicts}
        rows.append(
            {**row, "refused": said[verdicts[0].judge] == 1.0, "verdicts": said}
            | verdicts[0].reasons.get(_key(row), {})
        )
    return rows


def _reasons(judge: Judge, requests: Sequence[str], answers: Sequence[str]) -> list[dict]:
    """What a judge that explains itself says of each answer; nothing of one that does not."""
    if not hasattr(judge, "explain"):
        return [{} for _ in answers]
    told = judge.explain(requests, answers)  # type: ignore[attr-defined]
    return [
        dict(zip(WHY, (one.kind, one.reason, [one.start, one.end]), strict=True)) for one in told
    ]


def _key(row: dict) -> tuple[str, str, str]:
    return row["dataset"], row["id"], row["model"]
