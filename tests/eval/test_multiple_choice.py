"""Choice questions as text, and what is read from written answers (labelled by hand)."""

import pytest

from nt_jax.data.records import ChoiceQuestion
from nt_jax.eval.multiple_choice import ASK, parse_choice, prompt_text
from nt_jax.eval.prompts import TestChoice

CITIES = ("Berlin", "New York", "Paris", "York")
SHOT = ChoiceQuestion("s", "What is 1 + 1?", ("1", "2", "3", "4"), 1, "plain_sums")
ASKED = ChoiceQuestion("q", "What is 1 + 2?", ("3", "4", "5", "6"), 0, "plain_sums")

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
