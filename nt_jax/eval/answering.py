"""One model's answers to all test sets, kept batch by batch in the folder of its stage."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jax import Array

from nt_jax.eval.answer_file import RecordFile, answer_rows, asked
from nt_jax.eval.letters import encode_question, fitting_shots, letter_tokens, score_letters
from nt_jax.eval.multiple_choice import ASK, parse_choice, prompt_text
from nt_jax.eval.prompts import TestChoice, TestPrompt
from nt_jax.generate.engine import OnBatch
from nt_jax.generate.vllm_engine import check_vllm

if TYPE_CHECKING:  # a session imports the judges, which lie beside this file
    from nt_jax.generate.intervention import Intervention
    from nt_jax.generate.session import Session

NO_LETTERS = (
    "letter likelihoods are read after plain text, where a method that acts on chat messages alone "
    "does nothing"
)
CHOICE_TOKENS = 32  # of an answer to a choice question: enough to name the choice
ADDED_TOKENS = 128  # to a prompt by an intervention (system message, suffix), at most


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model under test: the name its rows carry, the session that runs it, and its factors.

    `exported` is the Hugging Face folder with the factors in it, which vLLM reads. `intervention`
    is what acts on each request beside the weights: it may rewrite the prompt and steer the
    residual stream (nt_jax/generate/intervention.py). `edits_weights` says that the session's weights
    are changed as well, so that letters after plain text are the method's own.
    """

    name: str
    session: "Session"
    scale_LF: Array | None = None
    exported: Path | None = None
    intervention: "Intervention | None" = None
    edits_weights: bool = False

    @property
    def has_letters(self) -> bool:
        """Whether letter likelihoods say anything about it (see NO_LETTERS)."""
        return self.intervention is None or self.edits_weights

    @property
    def factors_LF(self) -> Array:
        """The factors in use, all 1 for an untouched model."""
        return self.session.lm.ones_LF if self.scale_LF is None else self.scale_LF

    @property
    def vllm_folder(self) -> Path | None:
        """What vLLM reads; None where our own engine answers."""
        if self.session.config.eval.engine == "jax":
            return None
        return check_vllm(self.session.checkpoint) if self.scale_LF is None else self.exported

    def answer(
        self, texts: Sequence[str], max_new: int, label: str | None = None,
        keep: OnBatch | None = None,
    ) -> list[list[int]]:  # fmt: skip
        """Greedy answers by the engine that the config names, the intervention at work."""
        label = f"{self.name} {label}" if label else None
        changed = {}
        if self.intervention is not None and texts:
            prompts = [self.session.encode(text) for text in texts]
            ready = self.intervention.prepare(self.session.lm, self.factors_LF, prompts, texts)
            changed = {"prompts": ready.prompts, "steer_RLD": ready.steer_RLD}
        return self.session.answer(
            texts, max_new, label, self.scale_LF, keep, vllm_folder=self.vllm_folder, **changed
        )


def answer_all(
    model: Measured, prompts: Sequence[TestPrompt], choices: Sequence[TestChoice], folder: Path
) -> str:
    """Answer everything that `folder` has no answer to yet; the line to say about it."""
    tokens = answer_requests(model, prompts, folder)
    said = f"{len(prompts)} answers of the {model.name} model, {tokens:,} tokens"
    if choices:
        write_choices(model, choices, folder)  # first: our weights are not in vLLM's way yet
        if model.has_letters:
            score_choices(model, choices, folder)
        said += f"; {len(choices)} choice questions"
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


def answer_requests(model: Measured, prompts: Sequence[TestPrompt], folder: Path) -> int:
    """Greedy answers to requests; the number of new tokens."""
    session = model.session
    file = RecordFile(answers_path(folder, model.name))
    missing: list[TestPrompt] = file.missing(prompts, asked)

    def keep(rows: list[int], ids: list[list[int]]) -> None:
        texts = [session.text(answer) for answer in ids]
        file.append(answer_rows(model.name, [missing[row] for row in rows], texts))

    texts = [prompt.prompt for prompt in missing]
    return sum(map(len, model.answer(texts, session.config.eval.max_new_tokens, "tests", keep)))


def score_choices(model: Measured, choices: Sequence[TestChoice], folder: Path) -> None:
    """Log-probabilities of the letters after each question of a set that measures "letter"."""
    session = model.session
    wanted = _measuring(session, choices, "letter")
    file = RecordFile(letters_path(folder, model.name))
    missing: list[TestChoice] = file.missing(wanted, asked)
    if not missing:
        return
    count = max(len(choice.question.choices) for choice in missing)
    between, letters = letter_tokens(session.tokenizer, count)
    room = session.checkpoint.config.max_positions - len(between)
    encoded = [encode_question(session.tokenizer, choice, room) for choice in missing]
    with session.progress(f"{model.name} choices", len(missing), "questions") as advance:

        def keep(rows: list[int], log_prob_RC: np.ndarray) -> None:
            records = []
            for row, log_prob_C in zip(rows, log_prob_RC, strict=True):
                own = log_prob_C[: len(missing[row].question.choices)]
                records.append({
                    **_record(model, missing[row], encoded[row][1]),
                    "log_probs": [round(float(value), 6) for value in own],
                    "letter": int(own.argmax()),
                })  # fmt: skip
            file.append(records)
            advance(len(rows))

        score_letters(
            session.lm,
            model.factors_LF,
            [[*ids, *between] for ids, _ in encoded],
            letters,
            batch_size=session.config.eval.batch_size,
            on_batch=keep,
        )


def write_choices(model: Measured, choices: Sequence[TestChoice], folder: Path) -> None:
    """Written answers to each question of a set that measures "generate", and what they choose."""
    session = model.session
    wanted = _measuring(session, choices, "generate")
    file = RecordFile(choices_path(folder, model.name))
    missing: list[TestChoice] = file.missing(wanted, asked)
    room = session.checkpoint.config.max_positions - CHOICE_TOKENS
    if model.intervention is not None:
        room -= ADDED_TOKENS
    texts, shown = [], []
    for choice in missing:

        def length(shots: int, choice: TestChoice = choice) -> int:
            return len(session.encode(prompt_text(choice, shots, ASK)))

        shown.append(fitting_shots(choice, length, room))
        texts.append(prompt_text(choice, shown[-1], ASK))

    def keep(rows: list[int], ids: list[list[int]]) -> None:
        records = []
        for row, answer in zip(rows, ids, strict=True):
            text, question = session.text(answer), missing[row].question
            parsed = parse_choice(text, question.choices)
            records.append(
                {**_record(model, missing[row], shown[row]), "answer": text, "parsed": parsed}
            )
        file.append(records)

    model.answer(texts, CHOICE_TOKENS, "choices", keep)


def _measuring(session: "Session", choices: Sequence[TestChoice], metric: str) -> list[TestChoice]:
    evaluation = session.config.eval
    return [row for row in choices if evaluation.test_set(row.dataset).measures(metric)]


def _record(model: Measured, choice: TestChoice, shots: int) -> dict:
    question = choice.question
    return {
        "dataset": choice.dataset, "id": choice.id, "model": model.name,
        "subject": question.subject, "request": question.request, "key": question.key,
        "shots": shots,
    }  # fmt: skip
