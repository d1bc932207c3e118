"""Cohen's kappa against its textbook form, and its rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.eval.metrics import agreement
from nt_jax.eval.metrics.agreement import kappa
from nt_jax.eval.metrics.result import Measurements
from tests.made_up import made_up_answers

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


def by_counting(pairs) -> float:
    """Cohen (1960), from the four counts."""
    n = len(pairs)
    count = {cell: pairs.count(cell) for cell in {(True, True), (False, False), *pairs}}
    observed = (count[True, True] + count[False, False]) / n
    yes = [sum(pair[side] for pair in pairs) / n for side in (0, 1)]
    chance = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)


@given(PAIRS)
def test_kappa_equals_its_textbook_form(pairs):
    first, second = zip(*pairs, strict=True)
    assert kappa(first, second) == pytest.approx(by_counting(list(pairs)), abs=1e-9)


def test_a_worked_example():
    """Cohen's kappa of 20 + 15 agreements and 5 + 10 disagreements is 0.4."""
    cells = {(1, 1): 20, (1, 0): 5, (0, 1): 10, (0, 0): 15}
    first = [a for (a, _), n in cells.items() for _ in range(n)]
    second = [b for (_, b), n in cells.items() for _ in range(n)]
    assert kappa(first, second) == pytest.approx(0.4)


def test_rows_cover_every_pair_of_judges_and_every_model():
    rng = np.random.default_rng(0)
    answers = [
        row | {"verdicts": {name: float(rng.choice([0, 0.5, 1])) for name in "abc"}}
        for row in made_up_answers()
    ]
    rows = agreement.rows(Measurements(answers, judges=dict.fromkeys("abc", "0" * 64)))
    assert [(row.judge, row.model) for row in rows] == [
        (pair, model) for pair in ("a / b", "a / c", "b / c") for model in ("base", "tuned")
    ]
    base = [row["verdicts"] for row in answers if row["model"] == "base"]
    pairs = [(said["a"] == 1, said["b"] == 1) for said in base]
    assert rows[0].value == pytest.approx(by_counting(pairs)) and rows[0].n == len(base)
    assert all(row.low <= row.value <= row.high for row in rows)
    assert agreement.rows(Measurements(answers, judges={"a": "0" * 64})) == []


def test_verdicts_must_pair():
    with pytest.raises(ValueError, match="two verdicts on each answer"):
        kappa([True], [True, False])
