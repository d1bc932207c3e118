"""From answers on disk to numbers: verdicts, perplexity, divergence, and all rows of a result.

Each step writes its file into the folder of the evaluation, so the report can be made again alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_jax.errors import NtError, RunError
from nt_jax.eval.answer_file import RecordFile, asked
from nt_jax.eval.answering import Measured, answers_path, choices_path, letters_path
from nt_jax.eval.divergence import answer_kl
from nt_jax.eval.judges.verdicts import judge_answers, open_judge, with_verdicts
from nt_jax.eval.metrics.accuracy import average_rows, choice_rows
from nt_jax.eval.metrics.agreement import kappa_rows
from nt_jax.eval.metrics.perplexity import kl_row, perplexity_row
from nt_jax.eval.metrics.rows import ResultRow, su_f1_pairs, summarise
from nt_jax.eval.prompts import TestChoice, TestPrompt
from nt_jax.generate.likelihood import answer_nll

if TYPE_CHECKING:
    from nt_jax.generate.session import Session


def measure(
    session: "Session",
    models: Sequence[tuple[Measured, Path]],
    scorer: "Session | None",
    prompts: Sequence[TestPrompt],
    choices: Sequence[TestChoice],
    folder: Path,
) -> None:
    """Everything that rests on the answers of `models` = (model, folder of its answers).

    The first model is the one that others are compared with. `scorer` gives perplexities.
    """
    answers = [
        row
        for model, where in models
        for row in RecordFile(answers_path(where, model.name)).in_order(map(asked, prompts))
    ]
    _write_lines(folder / "choices.jsonl", _join_choices(models, choices))
    judges = {}
    if answers:
        answers, judges = judge_all(session, answers, models[0][1].parent, folder)
    _write_lines(folder / "answers.jsonl", answers)
    facts: dict[str, Any] = {"judges": judges}
    texts = [row for row in answers if row["answer"]]
    evaluation = session.config.eval
    if evaluation.perplexity and scorer is not None and texts:
        own = [row for row in texts if evaluation.test_set(row["dataset"]).measures("perplexity")]
        facts["perplexity"] = perplexity_scores(scorer, own)
        facts["scorer"] = identity(scorer)
    if evaluation.kl and len(models) > 1:
        base = models[0][0]
        own = [
            row
            for row in texts
            if row["model"] == base.name and evaluation.test_set(row["dataset"]).measures("kl")
        ]
        facts["kl"] = {
            other.name: kl_scores(base, other, own)
            for other, _ in models[1:]
            if same_vocabulary(base.session, other.session)
        }
        facts["base"] = identity(base.session)
    (folder / "scores.json").write_text(json.dumps(facts), encoding="utf-8")


def result_rows(folder: Path, seed: int) -> tuple[list[ResultRow], list[dict]]:
    """(all rows, answers with verdicts) from the files that `measure` wrote."""
    answers = read_lines(folder / "answers.jsonl")
    choices = read_lines(folder / "choices.jsonl")
    facts = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    rows = summarise(answers, judges=facts["judges"], seed=seed)
    if len(facts["judges"]) > 1:
        rows += kappa_rows(answers, list(facts["judges"]), seed)
    for dataset, models in facts.get("perplexity", {}).items():
        for name, pairs in models.items():
            scorer = tuple(facts["scorer"])
            rows.append(perplexity_row(dataset, name, np.array(pairs), scorer, seed))
    for name, datasets in facts.get("kl", {}).items():
        for dataset, pairs in datasets.items():
            rows.append(kl_row(dataset, name, np.array(pairs), tuple(facts["base"]), seed))
    pairs = su_f1_pairs(answers)
    rows += choice_rows(choices) + average_rows(choices, answers, next(iter(pairs), None), seed)
    return rows, answers


def judge_all(
    session: "Session", answers: list[dict], kept: Path, folder: Path
) -> tuple[list[dict], dict[str, str]]:
    """(answers with verdicts, judge name -> sha256); every judge of the settings in its turn."""
    found = []
    for number, spec in enumerate(session.config.eval.judges):
        path = folder / f"verdicts-{number}.jsonl"
        try:
            with session.progress(spec[:30], len(answers), "verdicts") as advance:
                judge = open_judge(spec, session.config, session.console)
                found.append(judge_answers(judge, answers, path, advance))
        except NtError as error:
            raise RunError(
                f"the judge '{spec}' failed: {error}\nAll answers are kept in {kept}: repeat this "
                "command, or change eval.judges, and only the judging is done again."
            ) from error
    judges = {one.judge: one.sha256 for one in found}
    if len(judges) < len(found):
        raise RunError("two of eval.judges have one name: their verdicts could not be told apart.")
    return with_verdicts(answers, found), judges


def perplexity_scores(scorer: "Session", rows: Sequence[dict]) -> dict[str, dict[str, list]]:
    """By dataset, then model: [[nats, tokens] per answer], under the scorer."""
    texts = [scorer.tokenizer.encode(row["answer"], add_special_tokens=False) for row in rows]
    with scorer.progress("perplexity", len(rows), "answers") as advance:
        pairs = answer_nll(
            scorer.lm,
            scorer.lm.ones_LF,
            [scorer.encode(row["prompt"]) for row in rows],
            texts,
            batch_size=scorer.config.eval.batch_size,
            on_batch=advance,
        )
    scores: dict[str, dict[str, list]] = {}
    for row, pair in zip(rows, pairs.tolist(), strict=True):
        scores.setdefault(row["dataset"], {}).setdefault(row["model"], []).append(pair)
    return scores


def kl_scores(base: Measured, other: Measured, rows: Sequence[dict]) -> dict[str, list]:
    """By dataset: [[nats, tokens] of KL(base || other) over each of the base model's answers]."""
    session = base.session
    with session.progress("divergence", len(rows), "answers") as advance:
        pairs = answer_kl(
            (session.lm, base.factors_LF),
            (other.session.lm, other.factors_LF),
            [session.encode(row["prompt"]) for row in rows],
            [session.tokenizer.encode(row["answer"], add_special_tokens=False) for row in rows],
            on_batch=advance,
        )
    scores: dict[str, list] = {}
    for row, pair in zip(rows, pairs.tolist(), strict=True):
        scores.setdefault(row["dataset"], []).append(pair)
    return scores


def same_vocabulary(one: "Session", other: "Session") -> bool:
    """Whether two models speak of the same tokens, without which no KL is defined."""
    if one is other:
        return True
    sizes = [session.checkpoint.config.vocab_size for session in (one, other)]
    return sizes[0] == sizes[1] and one.tokenizer.get_vocab() == other.tokenizer.get_vocab()


def identity(session: "Session") -> tuple[str, str]:
    """(name, hash) of a session's checkpoint, to stand beside what it scored."""
    from nt_jax.generate.session import fingerprint

    return session.config.model.source, fingerprint(session.checkpoint)


def read_lines(path: Path) -> list[dict]:
    """The records of a JSONL file; not by splitlines, since answers may hold U+2028."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _write_lines(path: Path, rows: Sequence[dict]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _join_choices(
    models: Sequence[tuple[Measured, Path]], choices: Sequence[TestChoice]
) -> list[dict]:
    """One record per question and model: its letters and its written answer together."""
    rows = []
    for model, where in models:
        letters = RecordFile(letters_path(where, model.name)).rows
        written = RecordFile(choices_path(where, model.name)).rows
        for key in map(asked, choices):
            if key in letters or key in written:
                rows.append({**written.get(key, {}), **letters.get(key, {})})
    return rows
