"""One model's answers to all test sets, kept batch by batch in the folder of its stage."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from nt_jax.config.evaluation import EvalConfig
from nt_jax.console import progress
from nt_jax.errors import DataError
from nt_jax.eval import multiple_choice
from nt_jax.eval.answer_file import RecordFile, answer_rows, asked
from nt_jax.eval.failures import Marks, in_parts
from nt_jax.eval.prompts import TestChoice, TestPrompt, Tests
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.generate.chat import ChatModel
from nt_jax.generate.decode import GREEDY, Sampling
from nt_jax.generate.likelihood import score_letters

CHOICE_TOKENS = 32  # of an answer to a choice question: enough to name it
ADDED_TOKENS = 128  # to a prompt by an intervention (system message, suffix), at most


def check_tests(model: ChatModel, tests: Tests, config: EvalConfig) -> None:
    """Raises a DataError, before any work, for the first prompt without room for its answer.

    A CheckpointError where the letters of choice questions are no tokens.
    """
    check_choices(model, tests.choices, config)
    _check_room(model, tests.prompts, config.max_new_tokens, "the model")


def check_scorer(scorer: ChatModel, tests: Tests, config: EvalConfig) -> None:
    """Raises a DataError, before any work, where another model cannot score what will be answered.

    An answer may have other tokens for the scorer than for whoever wrote it.
    """
    measuring = {name for name in config.datasets if config.test_set(name).measures("perplexity")}
    scored = [prompt for prompt in tests.prompts if prompt.dataset in measuring]
    _check_room(scorer, scored, config.max_new_tokens, f"eval.scorer ({scorer.checkpoint.source})")


def _check_room(model: ChatModel, prompts: Sequence[TestPrompt], new: int, called: str) -> None:
    room = model.checkpoint.config.max_positions - new
    for prompt in prompts:
        where = f"test set {prompt.dataset}, row {prompt.id}"
        try:
            tokens = len(model.encode(prompt.prompt)) + len(model.opening(prompt.prefill))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if tokens > room:
            raise DataError(
                f"{where}: the prompt has {tokens} tokens, and "
                f"{called}'s context leaves {room} beside its answer (eval.max_new_tokens). "
                "Shorten or drop it, or lower eval.max_new_tokens."
            )


def check_choices(model: ChatModel, choices: Sequence[TestChoice], config: EvalConfig) -> None:
    """Raises what answering them would: questions are tried without their worked examples."""
    context, bare = model.checkpoint.config.max_positions, multiple_choice.without_examples
    if scored := _measuring(config, choices, "letter"):
        count = max(len(choice.question.choices) for choice in scored)
        between, _ = multiple_choice.letter_tokens(model.tokenizer, count)
        for choice in map(bare, scored):
            multiple_choice.encode_question(model.tokenizer, choice, context - len(between))
    for choice in map(bare, _measuring(config, choices, "generate")):
        room, ask = context - choice_tokens(model, config), multiple_choice.ASK
        multiple_choice.fitting_prompt(choice, model.encode, room, ask)


def choice_tokens(model: ChatModel, config: EvalConfig) -> int:
    """Of written answers to choice questions; eval.max_new_tokens where a model reasons first."""
    reasons = model.chat.thinking or bool(model.chat.opened)
    return max(CHOICE_TOKENS, config.max_new_tokens) if reasons else CHOICE_TOKENS


def answer_all(
    subject: ModelUnderTest,
    tests: Tests,
    config: EvalConfig,
    folder: Path,
    keep_on: bool = False,
) -> str:
    """Answer everything that `folder` has no answer to yet; the line to say about it.

    `keep_on`: what fails is marked there, and the rest is answered (nt_jax/eval/failures.py).
    """
    marks = Marks(folder) if keep_on else None
    sampling = Sampling(config.temperature, config.draw_seed)
    prompts = tests.prompts
    tokens = answer_requests(subject, prompts, config.max_new_tokens, folder, sampling, marks)
    said = f"{len(prompts)} answers of the {subject.name} model, {tokens:,} tokens"
    if tests.choices:
        if written := _measuring(config, tests.choices, "generate"):  # these need a chat template
            write_choices(subject, written, folder, marks, choice_tokens(subject.model, config))
        if subject.no_letters is None:
            score_choices(subject, _measuring(config, tests.choices, "letter"), folder, marks)
        said += f"; {len(tests.choices)} choice questions"
    if marks is not None and marks.count:
        said += f"; {marks.count} FAILED ({marks.path.name} says why)"
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
    subject: ModelUnderTest,
    prompts: Sequence[TestPrompt],
    max_new: int,
    folder: Path,
    sampling: Sampling = GREEDY,
    marks: Marks | None = None,
) -> int:
    """Answers to requests, greedy unless told; the number of new tokens."""
    file = RecordFile(answers_path(folder, subject.name))
    tokens = 0

    def answer(missing: Sequence[TestPrompt]) -> None:
        def keep(rows: list[int], texts: list[str], facts: list[dict], count: int) -> None:
            nonlocal tokens
            known = answer_rows(subject.name, [missing[row] for row in rows], texts)
            file.append([row | more for row, more in zip(known, facts, strict=True)])
            tokens += count

        texts = [row.prompt for row in missing]
        openings = [subject.model.opening(row.prefill) for row in missing]
        streams = [row.stream for row in missing]
        subject.answer_texts(texts, max_new, "tests", keep, openings, sampling, streams)

    in_parts(prompts, lambda some: file.missing(some, asked), answer, marks, _known)
    return tokens


def score_choices(
    subject: ModelUnderTest,
    choices: Sequence[TestChoice],
    folder: Path,
    marks: Marks | None = None,
) -> None:
    """Log-probabilities of the letters after each question."""
    file = RecordFile(letters_path(folder, subject.name))
    work = partial(_score_choices, subject, file)
    in_parts(choices, lambda some: file.missing(some, asked), work, marks, _known)


def _score_choices(
    subject: ModelUnderTest, file: RecordFile, missing: Sequence[TestChoice]
) -> None:
    model = subject.model
    count = max(len(choice.question.choices) for choice in missing)
    between, letters = multiple_choice.letter_tokens(model.tokenizer, count)
    room = model.checkpoint.config.max_positions - len(between)
    encode = multiple_choice.encode_question
    encoded = [encode(model.tokenizer, choice, room) for choice in missing]
    texts, size = [[*ids, *between] for ids, _ in encoded], model.batch_size
    with progress(f"{subject.name} choices", len(missing), "questions") as advance:

        def keep(rows: list[int], log_prob_RC: np.ndarray) -> None:
            records = []
            for row, log_prob_C in zip(rows, log_prob_RC, strict=True):
                own = log_prob_C[: len(missing[row].question.choices)]
                log_probs = [round(float(value), 6) for value in own]
                known = _record(subject, missing[row], encoded[row][1])
                records.append(known | {"log_probs": log_probs, "letter": int(own.argmax())})
            file.append(records)
            advance(len(rows))

        score_letters(model.lm, subject.factors_LF, texts, letters, batch_size=size, on_batch=keep)


def write_choices(
    subject: ModelUnderTest,
    choices: Sequence[TestChoice],
    folder: Path,
    marks: Marks | None = None,
    max_new: int = CHOICE_TOKENS,
) -> None:
    """Written answers to each question, and what they choose."""
    file = RecordFile(choices_path(folder, subject.name))
    work = partial(_write_choices, subject, file, max_new)
    in_parts(choices, lambda some: file.missing(some, asked), work, marks, _known)


def _write_choices(
    subject: ModelUnderTest, file: RecordFile, max_new: int, missing: Sequence[TestChoice]
) -> None:
    model = subject.model
    room = model.checkpoint.config.max_positions - max_new
    if subject.intervention is not None:
        room -= ADDED_TOKENS
    fitting, ask = multiple_choice.fitting_prompt, multiple_choice.ASK
    prompts = [fitting(choice, model.encode, room, ask) for choice in missing]

    def keep(rows: list[int], texts: list[str], facts: list[dict], _: int) -> None:
        records = []
        for row, text, more in zip(rows, texts, facts, strict=True):
            parsed = multiple_choice.parse_choice(text, missing[row].question.choices)
            known = _record(subject, missing[row], prompts[row][1])
            records.append(known | {"answer": text, "parsed": parsed} | more)
        file.append(records)

    subject.answer_texts([text for text, _ in prompts], max_new, "choices", keep)


def _known(item: TestPrompt | TestChoice) -> dict:
    return {"dataset": item.dataset, "id": item.id}


def _measuring(config: EvalConfig, choices: Sequence[TestChoice], metric: str) -> list[TestChoice]:
    return [row for row in choices if config.test_set(row.dataset).measures(metric)]


def _record(subject: ModelUnderTest, choice: TestChoice, shots: int) -> dict:
    question, known = choice.question, {"dataset": choice.dataset, "id": choice.id}
    about = {"subject": question.subject, "request": question.request, "key": question.key}
    return {**known, "model": subject.name, **about, "shots": shots}
