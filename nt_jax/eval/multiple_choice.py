"""Questions with lettered choices (MMLU): their text, their tokens, what an answer takes."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from functools import partial

from nt_jax.checkpoints.tokenizer import Tokenizer, encode_text
from nt_jax.data.records import LETTERS, ChoiceQuestion
from nt_jax.errors import CheckpointError, DataError
from nt_jax.eval.judges.judge import without_thinking
from nt_jax.eval.prompts import TestChoice

ANSWER = "Answer:"
ASK = " Answer the last one: write the letter of the right choice."

_L = rf"[{LETTERS}]"
_CLOSED = r"(?![A-Za-z0-9'\u2019])"  # the letter is a word of its own
_IS = r"(?: is|:| would be| should be| must be)"
_STATED = re.compile(
    rf"(?:answer|\b(?:right|correct|best) (?:choice|option)){_IS}+\W*(?:(?:choice|option)\W+)?"
    rf"\b({_L}){_CLOSED}|\\boxed\{{({_L})\}}",
    re.IGNORECASE,
)
_NAMED = re.compile(
    rf"(?:answer|choice|option){_IS}*\W*\b({_L}){_CLOSED}"
    rf"|(?<!or )(?<!and )\b({_L})\)? is (?:the )?(?:right|correct|best){_CLOSED}",
    re.IGNORECASE,
)
_FIRST = re.compile(rf"\W*({_L})(?:[).:,\]]|\s*$|\s*\n|\s+[-\u2013]\s)")
_OR = re.compile(rf"\W*\b(?:or|and)\b\W*{_L}{_CLOSED}")  # (A) or (B): neither is chosen
_BRACKETED = re.compile(rf"[(\[]({_L})[)\]]|(?:^|\s)({_L})[).:](?:\s|$)")
_NOT_THIS = re.compile(
    rf"(?:(?i:\boption |\bchoice |\banswer ))?\(?\b{_L}\)? is (?:the )?(?:wrong|incorrect)\b"
    rf"|\b(?:not|isn't|incorrect|wrong)\b[^\w.;!?]*"  # within one sentence
    rf"(?:(?:option|choice|answer) (?:is )?)?\(?{_L}{_CLOSED}"
)


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

    In order: what follows the last "answer is", "Answer:" or "correct option is"; a letter at the
    very start; the last of "option B" and "B is right"; the only letter set off as (B) or "B."; the
    only choice whose text the answer repeats. What is said to be wrong counts nowhere.
    """
    text = _NOT_THIS.sub(" ", without_thinking(answer).replace("*", ""))
    letters = LETTERS[: len(choices)]
    if (stated := _last(_STATED, text)) and stated in letters:
        return letters.index(stated)
    first = _FIRST.match(text)
    if first and first[1] in letters and not _OR.match(text, first.end(1)):
        return letters.index(first[1])
    if (named := _last(_NAMED, text)) and named in letters:
        return letters.index(named)
    bracketed = {next(filter(None, match.groups())) for match in _BRACKETED.finditer(text)}
    if len(bracketed) == 1 and (letter := bracketed.pop()) in letters:
        return letters.index(letter)
    said, texts = _plain(text), [_plain(choice) for choice in choices]
    repeated = [n for n, choice in enumerate(texts) if _says(said, choice)]
    # One whose text lies inside that of another is not meant.
    longer = {n: {texts[m] for m in repeated} - {texts[n]} for n in repeated}
    meant = [n for n in repeated if not any(_says(other, texts[n]) for other in longer[n])]
    return meant[0] if len(meant) == 1 else None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    """The letter of the last match that is a capital: "a" is a word."""
    found = [next(filter(None, match.groups())) for match in pattern.finditer(text)]
    return next((letter for letter in reversed(found) if letter.isupper()), None)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _says(said: str, choice: str) -> bool:
    return bool(choice) and f" {choice} " in f" {said} "


def letter_tokens(tokenizer: Tokenizer, count: int) -> tuple[list[int], list[int]]:
    """(tokens between "Answer:" and the letter, the token of each of `count` letters).

    " A" is one token in most vocabularies and a space and a letter in others: whatever the
    tokenizer makes of "Answer: A" counts.
    """
    texts = [ANSWER, *(f"{ANSWER} {letter}" for letter in LETTERS[:count])]
    start, *ends = (tokenizer.encode(text, add_special_tokens=False) for text in texts)
    common, letters = ends[0][:-1], [ids[-1] for ids in ends]
    alike = all(ids[:-1] == common for ids in ends) and common[: len(start)] == start
    if not alike or len(set(letters)) != count:
        raise CheckpointError(
            f"The tokenizer of '{tokenizer.name_or_path}' does not write the letters "
            f"{', '.join(LETTERS[:count])} after '{ANSWER}' as one token each, so their "
            "likelihoods cannot be compared. Measure 'generate' only: metrics: [generate]."
        )
    return common[len(start) :], letters


def fitting_prompt(
    choice: TestChoice, encode: Callable[[str], list[int]], room: int, ask: str = ""
) -> tuple[str, int]:
    """(the prompt, worked examples in it) within `room` tokens; the first examples go first."""
    tokens = 0
    for shots in range(len(choice.shots), -1, -1):
        text = prompt_text(choice, shots, ask)
        if (tokens := len(encode(text))) <= room:
            return text, shots
    raise DataError(
        f"{choice.dataset}, question {choice.id}: {tokens} tokens without any worked example "
        f"do not fit the {room} that the model's context leaves."
    )


def without_examples(choice: TestChoice) -> TestChoice:
    """The question alone."""
    return dataclasses.replace(choice, shots=())


def encode_question(tokenizer: Tokenizer, choice: TestChoice, room: int) -> tuple[list[int], int]:
    """(token ids up to "Answer:", worked examples among them); as plain text, not as a chat."""
    encode = partial(encode_text, tokenizer, special=True)  # with BOS where the model has one
    text, shots = fitting_prompt(choice, encode, room)
    return encode(text), shots
