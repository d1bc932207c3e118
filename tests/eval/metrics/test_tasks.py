"""Scores of tasks: paired by question, with intervals whose cover is known; the gate's words."""

import numpy as np
import pytest
from scipy import stats

from nt_jax.config.test_sets import Labels
from nt_jax.eval.gate import FELL, HELD, OPEN, gate_lines, verdict
from nt_jax.eval.metrics import intervals, tasks
from nt_jax.eval.metrics.result import Measurements, ResultRow, find


def scores(model: str, values, metric: str = "acc") -> list[dict]:
    place = {"dataset": "t", "model": model, "metric": metric}
    return [{**place, "id": f"t/{n}", "value": float(v)} for n, v in enumerate(values)]


def rows_of(*parts: list[dict]) -> list[ResultRow]:
    return tasks.rows(Measurements(tasks=[row for part in parts for row in part]))


def test_changes_are_paired_by_question_and_not_by_place():
    base, tuned = [1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 0, 1]
    rows = rows_of(scores("base", base), scores("tuned", tuned)[::-1])
    assert find(rows, "t", "acc", "base").value == pytest.approx(4 / 6)
    assert find(rows, "t", "acc", "tuned").value == pytest.approx(3 / 6)
    change = find(rows, "t", "acc_change", "tuned")
    assert change.value == pytest.approx(-1 / 6) and change.n == 6
    p = find(rows, "t", "acc_mcnemar_p", "tuned")
    assert p.value == pytest.approx(stats.binomtest(1, 3).pvalue)  # one gained, two lost
    assert find(rows, "t", "acc_change", "base") is None


def test_pairing_narrows_the_interval_of_the_change():
    """Correlated scores: the normal interval of paired differences, not that of two samples."""
    draw = np.random.default_rng(0)
    base = draw.random(400) < 0.6
    tuned = np.where(draw.random(400) < 0.05, ~base, base)
    change = find(rows_of(scores("base", base), scores("m", tuned)), "t", "acc_change", "m")
    differences = tuned.astype(float) - base
    half = 1.96 * differences.std() / 20
    assert change.low == pytest.approx(differences.mean() - half, abs=0.004)
    assert change.high == pytest.approx(differences.mean() + half, abs=0.004)
    apart = 1.96 * np.sqrt(2 * 0.24 / 400)
    assert change.high - change.low < apart  # less than half of what unpaired ones would give


def test_scores_between_0_and_1_have_no_mcnemar_and_metrics_stay_apart():
    rows = rows_of(
        scores("base", [0.5, 1]), scores("m", [0.25, 1]), scores("base", [1, 1], "strict"),
        scores("m", [1, 0], "strict"),
    )  # fmt: skip
    assert find(rows, "t", "acc_change", "m").value == pytest.approx(-0.125)
    assert find(rows, "t", "acc_mcnemar_p", "m") is None
    assert find(rows, "t", "strict_change", "m").value == -0.5
    assert find(rows, "t", "strict_mcnemar_p", "m").value == 1.0


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(-0.03, 0.1, HELD), (0.01, 0.2, HELD), (-0.2, -0.031, FELL), (-0.2, -0.03, OPEN),
     (-0.031, 0.5, OPEN)],
)  # fmt: skip
def test_what_held_what_fell_and_what_is_open(low, high, said):
    assert verdict(low, high, 0.03) == said


def test_the_gate_has_a_line_for_each_task_and_none_for_refusals():
    rows = rows_of(scores("base", [1] * 200), scores("tuned", [1] * 150 + [0] * 50))
    rows += [ResultRow("t", "refusal_change", "tuned", 0.5, 10, 0.2, 0.8),
             ResultRow("t", "refusal_rate", "base", 0.5, 10, 0.2, 0.8)]  # fmt: skip
    (line,) = gate_lines(rows, 0.05, Labels({"t": "small task"}))
    assert line.startswith("small task, acc: 100.0 % to 75.0 % (tuned), -25.0 points (-30.7")
    assert "over 200 questions: FELL, margin 5 points" in line
    assert gate_lines(rows_of(scores("m", [1, 0])), 0.05, Labels()) == []  # nothing to pair with


@pytest.mark.parametrize(
    ("count", "said"), [(1, OPEN), (5, OPEN), (10, OPEN), (120, OPEN), (130, HELD), (14042, HELD)]
)
def test_few_questions_never_hold_although_nothing_changed(count, said):
    rows = rows_of(scores("base", [1] * count), scores("tuned", [1] * count))
    (line,) = gate_lines(rows, 0.03, Labels())
    assert f"over {count} questions: {said}, margin 3 points" in line


@pytest.mark.parametrize("count", [20, 65, 130, 300])
@pytest.mark.parametrize("flips", [0.03, 0.06, 0.2])
def test_what_fell_by_the_margin_is_seldom_called_held(count, flips):
    """One side of 95 %: 2.5 %. A bootstrap holds up to three in four of them."""
    changes = np.random.default_rng(0).choice(
        [1, -1, 0], (1000, count), p=[(flips - 0.03) / 2, (flips + 0.03) / 2, 1 - flips]
    )
    held = [verdict(*intervals.paired_change(row), 0.03) == HELD for row in changes]
    assert np.mean(held) < 0.04
