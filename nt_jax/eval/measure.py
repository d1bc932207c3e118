"""From answers on disk to numbers: verdicts, what models say about answers, all rows of a result.

Each step writes its file into the folder of the evaluation, so the report can be made again alone.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nt_jax.checkpoints.checkpoint import fingerprint
from nt_jax.config.evaluation import EvalConfig
from nt_jax.config.test_sets import Labels
from nt_jax.console import progress
from nt_jax.errors import NtError, RunError
from nt_jax.eval.answer_file import RecordFile, asked
from nt_jax.eval.answering import answers_path, choices_path, letters_path
from nt_jax.eval.failures import Marks
from nt_jax.eval.judges.judge import JudgeToOpen
from nt_jax.eval.judges.verdicts import judge_answers, with_verdicts
from nt_jax.eval.metrics.result import Answer, Measurements, ResultRow
from nt_jax.eval.metrics.rows import all_rows, metrics
from nt_jax.eval.prompts import TestChoice, Tests
from nt_jax.eval.under_test import ModelUnderTest, Scoring
from nt_jax.generate.chat import ChatModel
from nt_jax.seal import reading

TASKS = "tasks.jsonl"  # scores of eval.harness, where there are any
Answered = tuple[ModelUnderTest, Path]  # a model and the folder of its answers


def measure(
    models: Sequence[Answered],
    tests: Tests,
    config: EvalConfig,
    folder: Path,
    *,
    judges: Sequence[JudgeToOpen],
    scorer: ChatModel | None,
    base: Answered | None = None,
    keep_on: bool = False,
) -> None:
    """Everything that rests on the answers of `models`, into the files of `folder`.

    `scorer` gives perplexities; `base` is the one that others are compared with, by default the
    first. Verdicts that are in `folder` already are not repeated. `keep_on`: answers that are
    missing are left out, and judge calls that fail are marked (nt_jax/eval/failures.py).
    """
    base = base or models[0]
    marks = Marks(folder) if keep_on else None
    answers, known = [row for model in models for row in _answers(model, tests, keep_on)], {}
    _write_lines(folder / "choices.jsonl", _join_choices(models, tests.choices))
    if answers:
        kept = models[0][1].parent if models[0][1] != folder else None
        answers, known = judge_all(judges, answers, kept, folder, marks)
    _write_lines(folder / "answers.jsonl", answers)
    others = [model for model, _ in models if model.name != base[0].name]
    base_answers = _answers(base, tests, keep_on)
    asked_about = Scoring(answers, base[0], base_answers, others, scorer, config)
    reasons = {model.name: model.no_letters for model, _ in models if tests.choices}
    facts = {
        "judges": known,
        "scores": score_all(asked_about),
        "not_measured": {name: why for name, why in reasons.items() if why},
    }
    if short := _counted(answers, tests, [model.name for model, _ in models]):
        facts["counted"] = short
    (folder / "scores.json").write_text(json.dumps(facts), encoding="utf-8")


def score_all(asked_about: Scoring) -> dict[str, dict[str, Any]]:
    """By metric: what it makes rows of, and the (name, hash) of the model that said it."""
    scores = {}
    for name, metric in metrics().items():
        found = metric.score(asked_about) if hasattr(metric, "score") else None
        if found is not None:
            values, model = found
            identity = [model.checkpoint.source, fingerprint(model.checkpoint)]
            scores[name] = {"values": values, "by": identity}
    return scores


def result_rows(folder: Path, seed: int) -> tuple[list[ResultRow], list[Answer]]:
    """(all rows, answers with verdicts) from the files that `measure` wrote."""
    answers, choices = (read_lines(folder / f"{name}.jsonl") for name in ("answers", "choices"))
    with reading(folder / "scores.json"):
        facts = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        said = facts["judges"], facts["scores"]
    path = folder / TASKS
    tasks = read_lines(path) if path.exists() else []
    return all_rows(Measurements(answers, choices, *said, seed, tasks)), [*answers]


def judge_all(
    judges: Sequence[JudgeToOpen],
    answers: list[dict],
    kept: Path | None,
    folder: Path,
    marks: Marks | None = None,
) -> tuple[list[dict], dict[str, str]]:
    """(answers with verdicts, judge name -> sha256); every judge in its turn.

    `kept` is where the answers lie, for the message about a judge that fails; None of answers that
    go with this process.
    """
    found = []
    for number, (spec, opened) in enumerate(judges):
        try:
            with progress(spec[:30], len(answers), "verdicts") as advance:
                path = folder / f"verdicts-{number}.jsonl"
                found.append(judge_answers(opened(), answers, path, advance, marks))
        except Exception as error:
            if isinstance(error, OSError) or (not isinstance(error, NtError) and marks is None):
                raise
            failed = f"the judge '{spec}' failed: {error or type(error).__name__}"
            if kept is not None:
                failed += (
                    f"\nAll answers are kept in {kept}: repeat this command, or change "
                    "eval.judges, and only the judging is done again."
                )
            raise RunError(failed) from error
    known = {one.judge: one.sha256 for one in found}
    if len(known) < len(found):
        raise RunError("two of eval.judges have one name: their verdicts could not be told apart.")
    return with_verdicts(answers, found), known


def read_lines(path: Path) -> list[dict]:
    """The records of a JSONL file; not by splitlines, since answers may hold U+2028."""
    with reading(path), path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _write_lines(path: Path, rows: Sequence[dict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _answers(answered: Answered, tests: Tests, keep_on: bool = False) -> list[dict]:
    """The model's answers, with the marks of their requests."""
    model, folder = answered
    file = RecordFile(answers_path(folder, model.name))
    there = [p for p in tests.prompts if not keep_on or asked(p) in file.rows]
    rows = file.in_order(map(asked, there))
    marks = [{"sounds_harmful": True} if prompt.sounds_harmful else {} for prompt in there]
    return [row | mark for row, mark in zip(rows, marks, strict=True)]


def _counted(answers: Sequence[dict], tests: Tests, models: Sequence[str]) -> dict[str, list[int]]:
    """Test set -> [answers that count, prompts], where a model has fewer answers than prompts."""
    prompts = Counter(prompt.dataset for prompt in tests.prompts)
    found = Counter((row["dataset"], row["model"]) for row in answers)
    least = {name: min(found[name, model] for model in models) for name in prompts}
    return {name: [least[name], count] for name, count in prompts.items() if least[name] < count}


def labels_with_counts(folder: Path, labels: Labels) -> Labels:
    """The names of test sets, with "n of N" where not every prompt has a verdict in `folder`."""
    facts = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    short = facts.get("counted", {}).items()
    return Labels(labels | {name: f"{labels[name]} ({n} of {all_})" for name, (n, all_) in short})


def _join_choices(models: Sequence[Answered], choices: Sequence[TestChoice]) -> list[dict]:
    """One record per question and model: its letters and its written answer together."""
    rows = []
    for model, where in models:
        letters = RecordFile(letters_path(where, model.name)).rows
        written = RecordFile(choices_path(where, model.name)).rows
        joined = (written.get(key, {}) | letters.get(key, {}) for key in map(asked, choices))
        rows += filter(None, joined)
    return rows
