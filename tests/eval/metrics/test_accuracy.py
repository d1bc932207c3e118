"""Accuracies on choice questions and their paired test."""

import pytest

from nt_jax.eval.metrics import accuracy, intervals
from nt_jax.eval.metrics.result import Measurements, ResultRow, find
from tests.eval.metrics.made_up import kept, made_up_choices


def rows_of(choices: list[dict]) -> list[ResultRow]:
    return accuracy.rows(Measurements(choices=choices))


def test_accuracies_with_intervals_and_paired_tests():
    rows = rows_of(made_up_choices())
    letter = find(rows, "mmlu", "letter_accuracy", "tuned")
    assert (letter.value, letter.n) == (25 / 40, 40)
    assert (letter.low, letter.high) == intervals.wilson(25, 40)
    assert find(rows, "mmlu", "generate_accuracy", "base").value == 0.5
    assert find(rows, "mmlu", "unparsed_rate", "tuned").value == 15 / 40
    p = find(rows, "mmlu", "letter_accuracy_mcnemar_p", "tuned")
    assert p.value == pytest.approx(2 * 0.5**5)  # five questions changed sides, all one way
    assert find(rows, "mmlu", "letter_accuracy_mcnemar_p", "base") is None
    change = find(rows, "mmlu", "letter_accuracy_change", "tuned")
    before = find(rows, "mmlu", "letter_accuracy", "base").value
    assert change.value == pytest.approx(25 / 40 - before) and abs(change.value) == 5 / 40
    assert change.low < change.value < change.high and change.n == 40


def test_what_was_not_measured_has_no_row():
    metrics = {row.metric for row in rows_of(kept(made_up_choices(), "letter"))}
    assert metrics == {f"letter_accuracy{end}" for end in ("", "_change", "_mcnemar_p")}
    assert rows_of([]) == []
