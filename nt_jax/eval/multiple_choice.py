"""Questions with lettered choices (MMLU): their text, their tokens, what an answer takes."""

import re
from collections.abc import Callable, Sequence

from nt_jax.checkpoints.tokenizer import Tokenizer
from nt_jax.data.records import LETTERS, ChoiceQuestion
from nt_jax.errors import CheckpointError, DataError
from nt_jax.eval.judges.judge import without_thinking
from nt_jax.eval.prompts import TestChoice

ANSWER = "Answer:"
ASK = " Answer the last one: write the letter of the right choice."

_L = rf"[{LETTERS}]"
_CLOSED = r"(?![A-Za-z0-9'\u2019])"  # the letter is a word of its own
_MARKED = re.compile(
    rf"(?:answer|choice|option)(?: is|:| would be| should be| must be)*\W*\b({_L}){_CLOSED}"
    rf"|\boption ({_L}){_CLOSED}|\\boxed\{{({_L})\}}",
    re.IGNORECASE,
)
_FIRST = re.compile(rf"\W*({_L})(?:[).:,\]]|\s*$|\s*\n|\s+[-\u2013]\s)")
_OR = re.compile(rf"\W*\b(?:or|and)\b\W*{_L}{_CLOSED}")  # (A) or (B): neither is chosen
_BRACKETED = re.compile(rf"[(\[]({_L})[)\]]|(?:^|\s)({_L})[).:](?:\s|$)")
_NOT_THIS = re.compile(rf"\b(?:not|isn't|incorrect|wrong)\b\W*(?:option |choice )?{_L}{_CLOSED}")


def question_text(question: ChoiceQuestion, solved: bool) -> str:
    """Question, choices and "Answer:", with the right letter after it where `solved`."""
    choices = [f"{LETTERS[n]}. {text}" for n, text in enumerate(question.choices)]
    key = f" {LETTERS[question.key]}\n\n" if solved else ""
    return "\n".join([question.request, *choices, ANSWER]) + key


def prompt_text(choice: TestChoice, shots: int, ask: str = "") -> str:
    """The prompt of Hendrycks et al. (2021), with the last `shots` of the worked examples.

    `ask` goes behind the heading where the model is to write its answer.
    """
    subject = choice.question.subject.replace("_", " ")
    about = f" about {subject}" if subject else ""
    head = f"The following are multiple choice questions (with answers){about}.{ask}\n\n"
    solved = choice.shots[len(choice.shots) - shots :]
    body = "".join(question_text(example, True) for example in solved)
    return head + body + question_text(choice.question, False)


def parse_choice(answer: str, choices: Sequence[str]) -> int | None:
    """The number of the choice that a written answer takes, or None where it takes none.

    In order: what follows the last "answer is" or "Answer:"; a letter at the very start; the only
    letter set off as (B) or "B."; the only choice whose text the answer repeats.
    """
    text = _NOT_THIS.sub(" ", without_thinking(answer)).replace("*", "")
    count = len(choices)
    marked = [next(filter(None, match.groups())) for match in _MARKED.finditer(text)]
    marked = [letter for letter in marked if letter.isupper()]
    if marked and (number := _number(marked[-1], count)) is not None:
        return number
    first = _FIRST.match(text)
    if (
        first
        and not _OR.match(text, first.end(1))
        and (number := _number(first[1], count)) is not None
    ):
        return number
    letters = {next(filter(None, match.groups())) for match in _BRACKETED.finditer(text)}
    if len(letters) == 1 and (number := _number(letters.pop(), count)) is not None:
        return number
    said = _plain(text)
    repeated = [n for n, choice in enumerate(choices) if _says(said, _plain(choice))]
    longest = [n for n in repeated if not _part_of_another(n, repeated, choices)]
    return longest[0] if len(longest) == 1 else None


def _number(letter: str, count: int) -> int | None:
    number = LETTERS.index(letter)
    return number if number < count else None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _says(said: str, choice: str) -> bool:
    return bool(choice) and f" {choice} " in f" {said} "


def _part_of_another(number: int, repeated: Sequence[int], choices: Sequence[str]) -> bool:
    """Whether the choice's text lies inside that of another one which the answer repeats."""
    mine = _plain(choices[number])
    return any(
        other != number and mine != _plain(choices[other]) and _says(_plain(choices[other]), mine)
        for other in repeated
    )


def letter_tokens(tokenizer: Tokenizer, count: int) -> tuple[list[int], list[int]]:
    """(tokens between "Answer:" and the letter, the token of each of `count` letters).

    " A" is one token in most vocabularies and a space and a letter in others: whatever the
    tokenizer makes of "Answer: A" counts.
    """
    start = tokenizer.encode(ANSWER, add_special_tokens=False)
    ends = [
        tokenizer.encode(f"{ANSWER} {letter}", add_special_tokens=False)
        for letter in LETTERS[:count]
    ]
    common = ends[0][:-1]
    letters = [ids[-1] for ids in ends]
    alike = all(ids[:-1] == common for ids in ends) and common[: len(start)] == start
    if not alike or len(set(letters)) != count:
        raise CheckpointError(
            f"The tokenizer of '{tokenizer.name_or_path}' does not write the letters "
            f"{', '.join(LETTERS[:count])} after '{ANSWER}' as one token each, so their "
            "likelihoods cannot be compared. Measure 'generate' only: metrics: [generate]."
        )
    return common[len(start) :], letters


def fitting_shots(choice: TestChoice, length: Callable[[int], int], room: int) -> int:
    """How many worked examples leave the prompt within `room` tokens; the first ones go first."""
    for shots in range(len(choice.shots), -1, -1):
        if length(shots) <= room:
            return shots
    raise DataError(
        f"{choice.dataset}, question {choice.id}: {length(0)} tokens without any worked example "
        f"do not fit the {room} that the model's context leaves."
    )


def encode_question(tokenizer: Tokenizer, choice: TestChoice, room: int) -> tuple[list[int], int]:
    """(token ids up to "Answer:", worked examples among them); as plain text, not as a chat."""

    def ids(shots: int) -> list[int]:
        return tokenizer.encode(prompt_text(choice, shots))  # with BOS where the model has one

    shots = fitting_shots(choice, lambda shots: len(ids(shots)), room)
    return ids(shots), shots
