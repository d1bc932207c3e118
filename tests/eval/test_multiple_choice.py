"""Choice questions as text and as tokens, and what is read from written answers (by hand)."""

import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.tokenizer import load_tokenizer
from nt_jax.data.records import ChoiceQuestion
from nt_jax.errors import CheckpointError, DataError
from nt_jax.eval.multiple_choice import (
    ASK,
    encode_question,
    letter_tokens,
    parse_choice,
    prompt_text,
)
from nt_jax.eval.prompts import TestChoice
from tests import tiny

CITIES = ("Berlin", "New York", "Paris", "York")
SHOT = ChoiceQuestion("s", "What is 1 + 1?", ("1", "2", "3", "4"), 1, "plain_sums")
ASKED = ChoiceQuestion("q", "What is 1 + 2?", ("3", "4", "5", "6"), 0, "plain_sums")
CHOICES = [
    TestChoice(
        "sums",
        ChoiceQuestion(f"q{n}", f"{n}+{n}?", (str(n), str(2 * n), "0", "9"), 1),
        (ChoiceQuestion("s", "1+1?", ("1", "2"), 1),) * (n % 2),
    )
    for n in range(5)
]

# answer -> letter, or None where no choice is taken
LABELLED = [
    ("C", "C"), ("C.", "C"), ("(C)", "C"), ("C)", "C"), ("C: Paris", "C"), ("**C**", "C"),
    ("C. Paris", "C"), (" C\n\nBecause it is.", "C"), ("[B]", "B"), ("C - Paris", "C"),
    ("The answer is C.", "C"), ("The correct answer is (B) New York.", "B"),
    ("Answer: D", "D"), ("The right choice would be B, since it is large.", "B"),
    ("I think option C is right.", "C"), (r"So it is \boxed{A}.", "A"),
    ("A is tempting, but the answer is D.", "D"),
    ("The answer is not A. The answer is B.", "B"),
    ("First I thought the answer is A. But no: the answer is C.", "C"),
    ("The capital of France is Paris.", "C"), ("It is New York.", "B"), ("york", "D"),
    ("Paris", "C"), ("the answer is paris", "C"),
    ("We can rule some out. That leaves (D).", "D"),
    ("<think>The answer is A.</think>The answer is B.", "B"),
    ("<think>The answer is A", None),
    ("The answer is **B**", "B"), ("Answer:\nC", "C"), ("The correct option is: C.", "C"),
    ("The correct answer is B. Option A is incorrect because it is a capital.", "B"),
    ("The answer is B. Option C is a common mistake.", "B"),
    ("B is right; choice A is wrong", "B"), ("Choice A is incorrect. I take option C.", "C"),
    ("C. Option A is a common mistake.", "C"), ("The wrong answer is A. It is B.", "B"),
    ("The answer is option B. Choice D is a trap.", "B"), ("A and C are wrong. B.", "B"),
    ("First I thought the answer is A. But the correct option is C.", "C"),
    ("The answer is B. The incorrect option is A.", "B"), ("A or B is right.", None),
    ("", None), ("I cannot help with that.", None), ("It could be Berlin or Paris.", None),
    ("(A) or (B)", None), ("A city in Europe is meant here.", None),
    ("I do not know, sorry.", None), ("E", None), ("The answer is E.", None),
    ("Answer: a city that I do not know", None), ("Certainly! Let me think about it.", None),
    ("Don't ask me.", None), ("Because of its size, none of them.", None),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "letter"), LABELLED)
def test_what_a_written_answer_chooses(answer, letter):
    expected = None if letter is None else "ABCD".index(letter)
    assert parse_choice(answer, CITIES) == expected


def test_both_kinds_of_answers_are_labelled():
    assert len(LABELLED) >= 40
    assert sum(letter is None for _, letter in LABELLED) >= 10


def test_the_prompt_is_that_of_hendrycks_et_al():
    text = prompt_text(TestChoice("mmlu", ASKED, (SHOT,)), 1)
    assert text == (
        "The following are multiple choice questions (with answers) about plain sums.\n\n"
        "What is 1 + 1?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: B\n\n"
        "What is 1 + 2?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:"
    )
    none = prompt_text(TestChoice("mmlu", ASKED, (SHOT,)), 0, ASK)
    assert "1 + 1" not in none and ASK in none


# --- as tokens -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(open_checkpoint(str(tiny.checkpoint("llama2"))))


def test_question_and_letter_are_the_tokens_of_the_whole_text(tokenizer):
    """So the likelihood of the last token is that of the text " A" after the prompt."""
    between, letters = letter_tokens(tokenizer, 4)
    for choice in CHOICES:
        ids, shown = encode_question(tokenizer, choice, 256)
        text = prompt_text(choice, len(choice.shots))
        whole = [tokenizer.encode(f"{text} {letter}") for letter in "ABCD"]
        assert [[*ids, *between, letter] for letter in letters] == whole
        assert shown == len(choice.shots)


class Words:
    """A tokenizer that writes one token per character, spaces apart or joined to what follows."""

    name_or_path = "words"

    def __init__(self, joined: bool, lost: str = ""):
        self.joined, self.lost = joined, lost

    def encode(self, text, add_special_tokens=True):
        if self.joined:
            text = text.replace(" ", "")
        return [0 if letter in self.lost else ord(letter) for letter in text]


def test_letters_with_and_without_a_space_of_their_own():
    assert letter_tokens(Words(False), 2) == ([32], [65, 66])
    assert letter_tokens(Words(True), 2) == ([], [65, 66])
    with pytest.raises(CheckpointError, match="does not write the letters A, B"):
        letter_tokens(Words(True, lost="AB"), 2)


def test_the_first_examples_give_way_where_the_context_is_short(tokenizer):
    shots = tuple(ChoiceQuestion(f"s{n}", f"{n}?", ("1", "2"), 1) for n in range(4))
    choice = TestChoice("sums", CHOICES[0].question, shots)
    lengths = [len(tokenizer.encode(prompt_text(choice, n))) for n in range(5)]
    ids, shown = encode_question(tokenizer, choice, lengths[2] + 1)
    assert shown == 2 and len(ids) == lengths[2]
    assert "2?" in tokenizer.decode(ids) and "1?" not in tokenizer.decode(ids)
    with pytest.raises(DataError, match=r"sums, question q0: .* without any worked example"):
        encode_question(tokenizer, choice, lengths[0] - 1)
