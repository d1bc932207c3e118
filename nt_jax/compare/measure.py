"""Test answers and numbers of one method, and all methods' numbers together.

Every method answers the same prompts with the same engine and is judged by the same judges; each
has stages of its own, so that one more method asks nothing of the others again.
"""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from nt_jax.eval.answer_file import RecordFile, asked
from nt_jax.eval.answering import (
    NO_LETTERS,
    Measured,
    answers_path,
    choices_path,
    letters_path,
)
from nt_jax.eval.measure import identity, kl_scores, measure, same_vocabulary
from nt_jax.eval.metrics.rows import BASE
from nt_jax.eval.prompts import TestChoice, TestPrompt
from nt_jax.generate.session import Session

Asked = TypeVar("Asked", TestPrompt, TestChoice)


def first_of_each(rows: Sequence[Asked], limit: int | None) -> list[Asked]:
    """The first `limit` rows of each test set."""
    seen: Counter[str] = Counter()
    kept = []
    for row in rows:
        seen[row.dataset] += 1
        if limit is None or seen[row.dataset] <= limit:
            kept.append(row)
    return kept


def take_over(source: Path, known_as: str, name: str, folder: Path) -> None:
    """Start a method's files of answers with those that the run has already given under a name."""
    for path_of in (answers_path, letters_path, choices_path):
        path = path_of(source, known_as)
        file = RecordFile(path_of(folder, name))
        if path.exists() and not file.rows:
            file.append([{**row, "model": name} for row in RecordFile(path).rows.values()])


def measure_one(
    model: Measured,
    answers: Path,
    base: Measured,
    base_folder: Path,
    scorer: Session | None,
    asked_of_all: tuple[Sequence[TestPrompt], Sequence[TestChoice]],
    folder: Path,
) -> None:
    """Verdicts, perplexity and (where weights alone make the difference) KL of one model."""
    session = base.session
    prompts, choices = asked_of_all
    measure(session, [(model, answers)], scorer, prompts, choices, folder)
    facts = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    comparable = model.intervention is None and same_vocabulary(session, model.session)
    if session.config.eval.kl and model.name != BASE and comparable:
        kept = RecordFile(answers_path(base_folder, base.name)).in_order(map(asked, prompts))
        entry = session.config.eval.test_set
        rows = [r for r in kept if r["answer"] and entry(r["dataset"]).measures("kl")]
        facts["kl"] = {model.name: kl_scores(base, model, rows)}
        facts["base"] = identity(session)
    if choices and not model.has_letters:
        facts["not_measured"] = {model.name: NO_LETTERS}
    (folder / "scores.json").write_text(json.dumps(facts), encoding="utf-8")


def merge(folders: Sequence[Path], out: Path) -> None:
    """The files of several `measure_one` as if all models had been measured together."""
    for name in ("answers.jsonl", "choices.jsonl"):
        with (out / name).open("wb") as joined:
            for folder in folders:
                with (folder / name).open("rb") as part:
                    shutil.copyfileobj(part, joined)
    facts: dict = {"judges": {}, "not_measured": {}}
    for folder in folders:
        for name, value in json.loads((folder / "scores.json").read_text("utf-8")).items():
            if name == "perplexity":  # dataset > model
                for dataset, models in value.items():
                    facts.setdefault(name, {}).setdefault(dataset, {}).update(models)
            elif isinstance(value, dict):
                facts.setdefault(name, {}).update(value)
            else:
                facts[name] = value
    (out / "scores.json").write_text(json.dumps(facts), encoding="utf-8")


def not_measured(folder: Path) -> dict[str, str]:
    """Model -> why its letters were not measured."""
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))["not_measured"]
