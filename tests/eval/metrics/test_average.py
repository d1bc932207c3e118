"""The average of the paper's Table 3."""

import numpy as np
import pytest

from nt_jax.eval.metrics import average, entropy
from nt_jax.eval.metrics.average import table3_average
from nt_jax.eval.metrics.result import Measurements
from tests.eval.metrics.made_up import kept, made_up_choices
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


def test_the_average_of_a_model_is_made_of_its_own_answers():
    answers, choices = made_up_answers(), made_up_choices()
    rows = average.rows(Measurements(answers, kept(choices, "letter")))
    assert [row.model for row in rows] == ["base", "tuned"]
    texts = [
        [row["answer"] for row in answers if (row["dataset"], row["model"]) == (name, "tuned")]
        for name in ("demo_attack", "demo_harmless")
    ]
    said, flow = (
        [np.mean([function(text) for text in group]) for group in texts]
        for function in (entropy.unigram_entropy, entropy.ngram_entropy)
    )
    expected = (100 * 25 / 40 + sum(flow) / 2 + sum(said)) / 3
    assert rows[1].value == pytest.approx(expected)
    written = average.rows(Measurements(answers, choices))[1]  # as the paper reads them
    assert written.value == pytest.approx(expected + 100 * (10 - 25) / 40 / 3)
    assert rows[1].low < rows[1].value < rows[1].high and rows[1].n == 40 + 24


def test_there_is_no_average_without_harmful_and_harmless_answers_of_the_model():
    answers, choices = made_up_answers(), made_up_choices()
    harmful = [row for row in answers if row["harmful"]]
    assert average.rows(Measurements(harmful, choices)) == []  # no pair of sets
    assert average.rows(Measurements([], choices)) == []
    assert average.rows(Measurements(answers)) == []
    lacking = [row for row in answers if row["harmful"] or row["model"] == "base"]
    assert [row.model for row in average.rows(Measurements(lacking, choices))] == ["base"]
