"""Accuracies, their paired test, and the paper's Table 3."""

import numpy as np
import pytest

from nt_jax.eval.metrics import entropy, intervals
from nt_jax.eval.metrics.accuracy import average_rows, choice_rows, table3_average
from nt_jax.eval.metrics.rows import find

from tests.made_up import made_up_answers

# Printed in Table 3: accuracy in %, fluency, entropy, average.
TABLE3 = {
    "Default": (64.43, 8.31, 12.909, 28.55),
    "DINM": (61.97, 5.96, 10.539, 26.16),
    "SCANS": (38.83, 1.45, 2.891, 14.39),
    "CAVGAN": (36.13, 7.27, 12.588, 18.66),
    "NeuronTune": (60.86, 6.34, 11.229, 26.14),
}


@pytest.mark.parametrize("method", TABLE3)
def test_the_average_is_that_of_table_3(method):
    *parts, printed = TABLE3[method]
    assert table3_average(*parts) == pytest.approx(printed, abs=0.006)


def choices() -> list[dict]:
    """40 questions: base has 30 right by letter and writes 20 right, tuned 25 and 10."""
    rows = []
    for model, letters, written in (("base", 30, 20), ("tuned", 25, 10)):
        for n in range(40):
            parsed = 1 if n < written else (None if n % 2 else 0)
            rows.append({
                "dataset": "mmlu", "id": str(n), "model": model, "key": 1,
                "letter": 1 if n < letters else 3, "answer": "...", "parsed": parsed,
            })  # fmt: skip
    return rows


def kept(rows: list[dict], kind: str) -> list[dict]:
    """The rows without what was not measured: only letters, or only written answers."""
    other = {"letter": ("answer", "parsed"), "parsed": ("letter",)}[kind]
    return [{key: value for key, value in row.items() if key not in other} for row in rows]


def test_accuracies_with_intervals_and_paired_tests():
    rows = choice_rows(choices())
    letter = find(rows, "mmlu", "letter_accuracy", "tuned")
    assert (letter.value, letter.n) == (25 / 40, 40)
    assert (letter.low, letter.high) == intervals.wilson(25, 40)
    assert find(rows, "mmlu", "generate_accuracy", "base").value == 0.5
    assert find(rows, "mmlu", "unparsed_rate", "tuned").value == 15 / 40
    p = find(rows, "mmlu", "letter_accuracy_mcnemar_p", "tuned")
    assert p.value == pytest.approx(2 * 0.5**5)  # five questions changed sides, all one way
    assert find(rows, "mmlu", "letter_accuracy_mcnemar_p", "base") is None


def test_what_was_not_measured_has_no_row():
    metrics = {row.metric for row in choice_rows(kept(choices(), "letter"))}
    assert metrics == {"letter_accuracy", "letter_accuracy_mcnemar_p"}
    assert choice_rows([]) == []


def test_the_average_of_a_model_is_made_of_its_own_answers():
    answers, sets = made_up_answers(), ("demo_attack", "demo_harmless")
    rows = average_rows(kept(choices(), "letter"), answers, sets)
    assert [row.model for row in rows] == ["base", "tuned"]
    texts = [
        [row["answer"] for row in answers if (row["dataset"], row["model"]) == (name, "tuned")]
        for name in sets
    ]
    said, flow = (
        [np.mean([function(text) for text in group]) for group in texts]
        for function in (entropy.unigram_entropy, entropy.ngram_entropy)
    )
    expected = (100 * 25 / 40 + sum(flow) / 2 + sum(said)) / 3
    assert rows[1].value == pytest.approx(expected)
    written = average_rows(choices(), answers, sets)[1]  # as the paper reads them
    assert written.value == pytest.approx(expected + 100 * (10 - 25) / 40 / 3)
    assert rows[1].low < rows[1].value < rows[1].high and rows[1].n == 40 + 24
    assert average_rows(choices(), answers, None) == []
    assert average_rows(choices(), [], sets) == []
