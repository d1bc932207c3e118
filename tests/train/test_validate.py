"""Validation asks prompts of every kind, and no score past the bound beats one within."""

import pytest

from nt_jax.data.records import AttackTemplate, HarmfulRequest, HarmlessRequest
from nt_jax.data.training import Records
from nt_jax.train.validate import HARMFUL_ROWS, HARMLESS_ROWS, Validation, score


def test_validation_hears_of_every_block_of_its_split():
    """Lists come in blocks, those that only sound harmful last: the first rows are one kind."""
    harmful = [HarmfulRequest(str(n), f"harm {n}") for n in range(2 * HARMFUL_ROWS)]
    harmless = [HarmlessRequest(str(n), f"ask {n}") for n in range(3 * HARMLESS_ROWS)]
    around = [AttackTemplate(str(n), f"{n} says {{request}}") for n in range(4)]
    found = Validation.of(Records(harmful, harmless, around))
    assert found.asked == [row.request for row in harmful[::2]]
    assert found.harmless == [row.request for row in harmless[::3]]


@pytest.mark.parametrize(
    ("harmless", "su_f1", "expected"),
    [(0.05, 0.7, 0.7), (0.04, 0.1, 0.1), (0.11, 0.7, -1.06 + 0.0007), (0.5, 0.9, -1.45 + 0.0009)],
)
def test_past_the_bound_on_harmless_refusals_no_score_beats_one_within(harmless, su_f1, expected):
    now = {"refusal_harmless": harmless, "su_f1": su_f1}
    assert score(now, {"refusal_harmless": 0.0}, 0.05) == pytest.approx(expected)
