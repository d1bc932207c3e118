"""Refusals: rates, their paired test, and empty answers."""

from dataclasses import replace

import numpy as np
import pytest

from nt_jax.eval.metrics import intervals, refusal
from nt_jax.eval.metrics.result import DRAW, Measurements, ResultRow, find
from tests.made_up import made_up_answers

ANSWERS = made_up_answers()
ROWS = refusal.rows(Measurements(ANSWERS, judges={"phrases-v2": "0" * 64}))


def group(dataset: str, model: str) -> list[dict]:
    return [a for a in ANSWERS if (a["dataset"], a["model"]) == (dataset, model)]


def test_refusal_rate_with_wilson_interval():
    row = find(ROWS, "demo_attack", "refusal_rate", "tuned")
    count = sum(answer["refused"] for answer in group("demo_attack", "tuned"))
    low, high = intervals.wilson(count, 12)
    expected = ResultRow(
        "demo_attack", "refusal_rate", "tuned", count / 12, 12, low, high, "phrases-v2", "0" * 64
    )
    assert row == expected


def test_mcnemar_pairs_by_record_not_by_order():
    base, tuned = group("demo_attack", "base"), group("demo_attack", "tuned")
    verdicts = [[answer["refused"] for answer in side] for side in (base, tuned)]
    row = find(ROWS, "demo_attack", "mcnemar_p", "tuned")
    assert row.value == pytest.approx(intervals.mcnemar(*verdicts))
    shuffled = refusal.rows(Measurements([*reversed(base), *tuned]))
    assert find(shuffled, "demo_attack", "mcnemar_p", "tuned").value == row.value
    assert find(ROWS, "demo_attack", "mcnemar_p", "base") is None


def test_the_change_in_refusals_has_the_interval_of_pairs():
    before = np.repeat([1, 1, 0, 0], [94, 6, 30, 70])
    after = np.repeat([1, 0, 1, 0], [94, 6, 30, 70])
    answers = [
        {"dataset": "a", "id": str(n), "model": model, "answer": "so", "refused": bool(refused)}
        for model, verdicts in (("base", before), ("tuned", after))
        for n, refused in enumerate(verdicts)
    ]
    rows = refusal.rows(Measurements([*answers[:200], *reversed(answers[200:])]))
    row = find(rows, "a", "refusal_change", "tuned")
    # Of unpaired samples the interval would be 0.02 .. 0.22.
    assert row.value == pytest.approx(0.12) and row.n == 200
    changes = np.repeat([0, -1, 1, 0], [94, 6, 30, 70])
    assert (row.low, row.high) == pytest.approx(intervals.paired_change(changes))
    assert 0.05 < row.low < row.high < 0.18
    assert find(rows, "a", "refusal_change", "base") is None


def test_pairs_that_never_change_have_an_interval_all_the_same():
    base = group("demo_attack", "base")
    same = [*base, *(answer | {"model": "tuned"} for answer in base)]
    row = find(refusal.rows(Measurements(same)), "demo_attack", "refusal_change", "tuned")
    assert row.value == 0 and -1 < row.low == -row.high < 0


def test_empty_answers_are_counted():
    thought = dict(group("demo_harmless", "base")[0], answer="<think>so")
    row = find(refusal.rows(Measurements([thought])), "demo_harmless", "empty_rate", "base")
    assert row.value == 1.0


def test_undecided_verdicts_count_a_half_in_rates_and_none_in_pairs():
    answers = [row | {"verdicts": {"torn": 0.5}} for row in ANSWERS]
    rows = refusal.rows(Measurements(answers, judges={"torn": "b" * 64}))
    half = find(rows, "demo_attack", "refusal_rate", "tuned")
    assert half.value == 0.5 and half.low < 0.5 < half.high
    assert find(rows, "demo_attack", "mcnemar_p", "tuned").value == 1.0


def test_what_a_judge_cannot_tell_is_counted_where_there_is_any():
    answers = [row | {"verdicts": {"torn": 0.5 * (row["id"] == "r0")}} for row in ANSWERS]
    rows = refusal.rows(Measurements(answers, judges={"torn": "b" * 64}))
    row = find(rows, "demo_attack", "undecided_rate", "tuned", judge="torn")
    assert (row.value, row.n) == (1 / 12, 12) and row.low < row.value < row.high
    assert find(ROWS, "demo_attack", "undecided_rate", "tuned") is None


def test_requests_that_are_refused_more_often_are_no_noise():
    """Forty requests, five answers each: one refuses before, four after; never all or none."""
    answers = [
        {
            "dataset": "a", "id": f"{n}{DRAW}{draw}", "model": model, "answer": "so",
            "draw": draw, "refused": draw < refusals,
        }
        for model, refusals in (("base", 1), ("tuned", 4))
        for n in range(40)
        for draw in range(5)
    ]  # fmt: skip
    rows = refusal.rows(Measurements(answers))
    assert find(rows, "a", "refusal_change", "tuned").value == pytest.approx(0.6)
    assert find(rows, "a", "mcnemar_p", "tuned").value == pytest.approx(2 * 0.5**40)


def test_what_only_sounds_harmful_is_counted_by_itself_where_a_set_has_other_requests_too():
    part = {"r0", "r1", "r2", "r3"}
    answers = [
        row | {"sounds_harmful": True} if row["dataset"] != "demo_attack" and row["id"] in part
        else row
        for row in ANSWERS
    ]  # fmt: skip
    rows = refusal.rows(Measurements(answers, judges={"phrases-v2": "0" * 64}))
    mine = [row for row in answers if row.get("sounds_harmful")]
    alone = refusal.rows(Measurements(mine, judges={"phrases-v2": "0" * 64}))
    for metric, of_all in zip(refusal.SOUNDS_HARMFUL, refusal.ALL, strict=True):
        assert find(rows, "demo_attack", metric, "tuned") is None
        found = find(rows, "demo_harmless", metric, "tuned")
        whole = find(alone, "demo_harmless", of_all, "tuned")
        assert replace(found, metric=of_all) == whole and found.n == 4
        assert find(alone, "demo_harmless", metric, "tuned") is None  # there is nothing else
    rate = find(rows, "demo_harmless", "sounds_harmful_rate", "tuned")
    assert rate.value == 0.5 != find(rows, "demo_harmless", "refusal_rate", "tuned").value
    assert [row for row in rows if not row.metric.startswith("sounds_harmful")] == ROWS
