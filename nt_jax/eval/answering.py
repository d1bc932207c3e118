"""One model's answers to all test sets, kept batch by batch in the folder of its stage."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nt_jax.config.evaluation import EvalConfig
from nt_jax.console import progress
from nt_jax.eval.answer_file import RecordFile, answer_rows, asked
from nt_jax.eval.multiple_choice import (
    ASK,
    encode_question,
    fitting_shots,
    letter_tokens,
    parse_choice,
    prompt_text,
)
from nt_jax.eval.prompts import TestChoice, TestPrompt, Tests
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.generate.likelihood import score_letters

CHOICE_TOKENS = 32  # of an answer to a choice question: enough to name the choice
ADDED_TOKENS = 128  # to a prompt by an intervention (system message, suffix), at most


def answer_all(subject: ModelUnderTest, tests: Tests, config: EvalConfig, folder: Path) -> str:
    """Answer everything that `folder` has no answer to yet; the line to say about it."""
    tokens = answer_requests(subject, tests.prompts, config.max_new_tokens, folder)
    said = f"{len(tests.prompts)} answers of the {subject.name} model, {tokens:,} tokens"
    if tests.choices:
        write_choices(subject, _measuring(config, tests.choices, "generate"), folder)
        if subject.has_letters:
            score_choices(subject, _measuring(config, tests.choices, "letter"), folder)
        said += f"; {len(tests.choices)} choice questions"
    return said


def answers_path(folder: Path, model: str) -> Path:
    """Where a model's answers to requests lie."""
    return folder / f"{model}.jsonl"


def letters_path(folder: Path, model: str) -> Path:
    """Where a model's letter likelihoods lie."""
    return folder / f"{model}.letters.jsonl"


def choices_path(folder: Path, model: str) -> Path:
    """Where a model's written answers to choice questions lie."""
    return folder / f"{model}.choices.jsonl"


def answer_requests(
    subject: ModelUnderTest, prompts: Sequence[TestPrompt], max_new: int, folder: Path
) -> int:
    """Greedy answers to requests; the number of new tokens."""
    file = RecordFile(answers_path(folder, subject.name))
    missing: list[TestPrompt] = file.missing(prompts, asked)

    def keep(rows: list[int], ids: list[list[int]]) -> None:
        texts = [subject.model.text(answer) for answer in ids]
        file.append(answer_rows(subject.name, [missing[row] for row in rows], texts))

    texts = [prompt.prompt for prompt in missing]
    return sum(map(len, subject.answer(texts, max_new, "tests", keep)))


def score_choices(subject: ModelUnderTest, choices: Sequence[TestChoice], folder: Path) -> None:
    """Log-probabilities of the letters after each question."""
    model = subject.model
    file = RecordFile(letters_path(folder, subject.name))
    missing: list[TestChoice] = file.missing(choices, asked)
    if not missing:
        return
    count = max(len(choice.question.choices) for choice in missing)
    between, letters = letter_tokens(model.tokenizer, count)
    room = model.checkpoint.config.max_positions - len(between)
    encoded = [encode_question(model.tokenizer, choice, room) for choice in missing]
    with progress(f"{subject.name} choices", len(missing), "questions") as advance:

        def keep(rows: list[int], log_prob_RC: np.ndarray) -> None:
            records = []
            for row, log_prob_C in zip(rows, log_prob_RC, strict=True):
                own = log_prob_C[: len(missing[row].question.choices)]
                records.append({
                    **_record(subject, missing[row], encoded[row][1]),
                    "log_probs": [round(float(value), 6) for value in own],
                    "letter": int(own.argmax()),
                })  # fmt: skip
            file.append(records)
            advance(len(rows))

        score_letters(
            model.lm, subject.factors_LF, [[*ids, *between] for ids, _ in encoded], letters,
            batch_size=model.batch_size, on_batch=keep,
        )  # fmt: skip


def write_choices(subject: ModelUnderTest, choices: Sequence[TestChoice], folder: Path) -> None:
    """Written answers to each question, and what they choose."""
    model = subject.model
    file = RecordFile(choices_path(folder, subject.name))
    missing: list[TestChoice] = file.missing(choices, asked)
    room = model.checkpoint.config.max_positions - CHOICE_TOKENS
    if subject.intervention is not None:
        room -= ADDED_TOKENS
    texts, shown = [], []
    for choice in missing:

        def length(shots: int, choice: TestChoice = choice) -> int:
            return len(model.encode(prompt_text(choice, shots, ASK)))

        shown.append(fitting_shots(choice, length, room))
        texts.append(prompt_text(choice, shown[-1], ASK))

    def keep(rows: list[int], ids: list[list[int]]) -> None:
        records = []
        for row, answer in zip(rows, ids, strict=True):
            text, question = model.text(answer), missing[row].question
            parsed = {"answer": text, "parsed": parse_choice(text, question.choices)}
            records.append({**_record(subject, missing[row], shown[row]), **parsed})
        file.append(records)

    subject.answer(texts, CHOICE_TOKENS, "choices", keep)


def _measuring(config: EvalConfig, choices: Sequence[TestChoice], metric: str) -> list[TestChoice]:
    return [row for row in choices if config.test_set(row.dataset).measures(metric)]


def _record(subject: ModelUnderTest, choice: TestChoice, shots: int) -> dict:
    question = choice.question
    return {
        "dataset": choice.dataset, "id": choice.id, "model": subject.name,
        "subject": question.subject, "request": question.request, "key": question.key,
        "shots": shots,
    }  # fmt: skip
