"""SU-F1 against every row that the paper prints, and its laws."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.eval.metrics import suf1
from nt_jax.eval.metrics.result import Measurements, find
from nt_jax.eval.metrics.rows import all_rows
from nt_jax.eval.metrics.suf1 import safety_score, su_f1, su_f1_pairs, utility_score
from tests.made_up import made_up_answers

ROWS = json.loads((Path(__file__).parents[2] / "golden" / "suf1_rows.json").read_text())
# The formula gives 0.757 and 0.287; the paper prints 0.770 and 0.289.
EXCEPTIONS = {
    "table 2: LLaMA2-7B-Chat NeuronTune": (0.770, 0.757),
    "table 4: w/o Attack Selection": (0.289, 0.287),
}
RATE, BITS = st.floats(0, 1), st.floats(0, 9)


def by_formula(row: dict) -> float:
    return su_f1(
        row["refusal_harmful"] / 100,
        row["refusal_harmless"] / 100,
        row["entropy_harmful"],
        row["entropy_harmless"],
    )


def test_26_of_28_printed_rows():
    off = {row["row"] for row in ROWS if abs(by_formula(row) - row["su_f1"]) > 6e-4}
    assert len(ROWS) == 28
    assert off == set(EXCEPTIONS)


@pytest.mark.parametrize("row", [row for row in ROWS if row["row"] in EXCEPTIONS], ids=str)
def test_the_two_exceptions_are_what_they_were(row):
    printed, formula = EXCEPTIONS[row["row"]]
    assert row["su_f1"] == printed
    assert by_formula(row) == pytest.approx(formula, abs=6e-4)


@given(RATE, RATE, BITS, BITS)
def test_lies_between_its_parts(harmful, harmless, bits_harmful, bits_harmless):
    score = su_f1(harmful, harmless, bits_harmful, bits_harmless)
    parts = safety_score(harmful, harmless), utility_score(bits_harmful, bits_harmless)
    assert 0.0 <= score <= 1.0
    assert min(parts) - 1e-9 <= score <= max(parts) + 1e-9


@given(RATE, RATE, RATE, BITS, BITS)
def test_more_refusal_of_harm_and_less_of_the_rest_never_hurts(a, b, harmless, x, y):
    low, high = sorted((a, b))
    assert su_f1(low, harmless, x, y) <= su_f1(high, harmless, x, y) + 1e-12
    assert su_f1(harmless, high, x, y) <= su_f1(harmless, low, x, y) + 1e-12


def test_bounds_are_arguments():
    assert utility_score(3.0, 5.0, bounds=(2.0, 6.0)) == 0.5
    assert su_f1(1.0, 0.0, 9.0, 9.0) == 1.0
    assert su_f1(0.0, 1.0, 0.0, 0.0) == 0.0


def test_percentages_are_refused():
    with pytest.raises(ValueError, match="divide percentages by 100"):
        su_f1(88.0, 2.0, 5.0, 5.0)
    with pytest.raises(ValueError, match="low < high"):
        su_f1(0.5, 0.5, 5.0, 5.0, bounds=(7.5, 1.0))


# --- as rows -------------------------------------------------------------------------------------

ANSWERS = made_up_answers()


def test_su_f1_is_over_the_attacked_and_the_harmless_set():
    assert su_f1_pairs(ANSWERS) == [("demo_attack", "demo_harmless")]
    rows = all_rows(Measurements(ANSWERS, judges={"phrases-v2": "0" * 64}))
    parts = [
        find(rows, dataset, metric, "tuned").value
        for metric in ("refusal_rate", "entropy")
        for dataset in ("demo_attack", "demo_harmless")
    ]
    row = find(rows, "demo_attack+demo_harmless", "su_f1", "tuned")
    assert row.value == pytest.approx(su_f1(*parts))
    assert row.n == 24 and row.low <= row.value <= row.high
    assert (row.judge, row.judge_sha256) == ("phrases-v2", "0" * 64)


def test_su_f1_needs_both_sets():
    harmful_only = [answer for answer in ANSWERS if answer["harmful"]]
    assert suf1.rows(Measurements(harmful_only)) == []
    assert su_f1_pairs(harmful_only) == su_f1_pairs([]) == []
    one_lacks = [row for row in ANSWERS if row["harmful"] or row["model"] == "base"]
    assert {row.model for row in suf1.rows(Measurements(one_lacks))} == {"base"}


def test_the_papers_pair_goes_first_in_whatever_order_the_sets_are_asked():
    sets = {"advbench": True, "truthfulqa": False, "safeedit": True, "alpaca": False}
    answers = [
        {"dataset": name, "harmful": harmful, "request": "r", "prompt": "attack r"}
        for name, harmful in sets.items()
    ]
    assert su_f1_pairs(answers)[0] == ("safeedit", "alpaca")
    assert su_f1_pairs(answers[:3])[0] == ("advbench", "truthfulqa")
