"""Answers to rows: counts, text metrics, SU-F1, pairing, and results.json."""

import json

import pytest

from nt_jax.errors import RunError
from nt_jax.eval.metrics import entropy, intervals
from nt_jax.eval.metrics.rows import (
    ResultRow,
    default_su_f1_sets,
    find,
    paired,
    read_rows,
    su_f1_pairs,
    summarise,
    write_rows,
)
from nt_jax.eval.metrics.suf1 import su_f1

from tests.made_up import made_up_answers

ANSWERS = made_up_answers()
ROWS = summarise(ANSWERS, judges={"phrases-v1": "0" * 64})


def group(dataset: str, model: str) -> list[dict]:
    return [a for a in ANSWERS if (a["dataset"], a["model"]) == (dataset, model)]


def test_refusal_rate_with_wilson_interval():
    row = find(ROWS, "demo_attack", "refusal_rate", "tuned")
    count = sum(answer["refused"] for answer in group("demo_attack", "tuned"))
    low, high = intervals.wilson(count, 12)
    expected = ResultRow(
        "demo_attack", "refusal_rate", "tuned", count / 12, 12, low, high, "phrases-v1", "0" * 64
    )
    assert row == expected


def test_one_row_per_dataset_metric_and_model():
    keys = [(row.dataset, row.metric, row.model) for row in ROWS]
    assert len(keys) == len(set(keys))
    metrics = {row.metric for row in ROWS}
    assert metrics == {
        "refusal_rate",
        "empty_rate",
        "mcnemar_p",
        "entropy",
        "ngram_entropy",
        "mean_length",
        "repetition",
        "su_f1",
    }
    assert all(row.low <= row.value <= row.high for row in ROWS if row.metric != "mcnemar_p")


def test_text_metrics_are_means_over_answers():
    texts = [answer["answer"] for answer in group("demo_harmless", "base")]
    row = find(ROWS, "demo_harmless", "ngram_entropy", "base")
    mean = entropy.mean_over_answers(entropy.ngram_entropy, texts)
    assert row.value == pytest.approx(mean)
    assert row.judge is None


def test_su_f1_is_over_the_attacked_and_the_harmless_set():
    assert default_su_f1_sets(ANSWERS) == ("demo_attack", "demo_harmless")
    parts = [
        find(ROWS, dataset, metric, "tuned").value
        for metric in ("refusal_rate", "entropy")
        for dataset in ("demo_attack", "demo_harmless")
    ]
    row = find(ROWS, "demo_attack+demo_harmless", "su_f1", "tuned")
    assert row.value == pytest.approx(su_f1(*parts))
    assert row.n == 24


def test_su_f1_needs_both_sets():
    harmful_only = [answer for answer in ANSWERS if answer["harmful"]]
    assert all(row.metric != "su_f1" for row in summarise(harmful_only))
    assert default_su_f1_sets([]) is None
    assert summarise([]) == []


def test_mcnemar_pairs_by_record_not_by_order():
    base, tuned = group("demo_attack", "base"), group("demo_attack", "tuned")
    verdicts = [[answer["refused"] for answer in side] for side in (base, tuned)]
    row = find(ROWS, "demo_attack", "mcnemar_p", "tuned")
    assert row.value == pytest.approx(intervals.mcnemar(*verdicts))
    shuffled = summarise([*reversed(base), *tuned])
    assert find(shuffled, "demo_attack", "mcnemar_p", "tuned").value == row.value


def test_records_of_two_datasets_may_share_an_id():
    first = [{"dataset": name, "id": 1, "text": name} for name in ("a", "b")]
    assert [(x["text"], y["text"]) for x, y in paired(first, first[::-1])] == [
        ("b", "b"),
        ("a", "a"),
    ]


def test_empty_answers_are_counted():
    thought = dict(group("demo_harmless", "base")[0], answer="<think>so")
    row = find(summarise([thought]), "demo_harmless", "empty_rate", "base")
    assert row.value == 1.0


def test_results_json_has_the_published_shape(tmp_path):
    path = tmp_path / "results.json"
    write_rows(path, ROWS)
    assert read_rows(path) == ROWS
    for row in json.loads(path.read_text()):
        assert [*row] == [
            "dataset", "metric", "model", "value", "n", "low", "high", "judge", "judge_sha256"
        ]  # fmt: skip


def test_broken_results_json_says_what_to_do(tmp_path):
    path = tmp_path / "results.json"
    for text in ("[{", '[{"dataset": 1}]', "[1]"):
        path.write_text(text)
        with pytest.raises(RunError, match=r"results\.json.*repeat the evaluation"):
            read_rows(path)


def test_the_papers_pair_goes_first_in_whatever_order_the_sets_are_asked():
    sets = {"advbench": True, "truthfulqa": False, "safeedit": True, "alpaca": False}
    answers = [
        {"dataset": name, "harmful": harmful, "request": "r", "prompt": "attack r"}
        for name, harmful in sets.items()
    ]
    assert su_f1_pairs(answers)[0] == ("safeedit", "alpaca")
    assert su_f1_pairs(answers[:3])[0] == ("advbench", "truthfulqa")
