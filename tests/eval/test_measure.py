"""All rows of a result, and what it takes to add a metric."""

import sys
from types import ModuleType

import pytest

from nt_jax.config.registry import METRICS, MetricLine
from nt_jax.eval.metrics.result import Column, Measurements, ResultRow, in_order
from nt_jax.eval.metrics.rows import all_rows, columns
from tests.eval.metrics.made_up import made_up_choices
from tests.made_up import made_up_answers

ANSWERS = made_up_answers()
ROWS = all_rows(Measurements(ANSWERS, judges={"phrases-v2": "0" * 64}))


def test_one_row_per_dataset_metric_and_model():
    keys = [(row.dataset, row.metric, row.model) for row in ROWS]
    assert len(keys) == len(set(keys))
    metrics = {row.metric for row in ROWS}
    assert metrics == {
        "refusal_rate",
        "empty_rate",
        "refusal_change",
        "mcnemar_p",
        "entropy",
        "ngram_entropy",
        "mean_length",
        "repetition",
        "su_f1",
    }
    assert all(row.low <= row.value <= row.high for row in ROWS if row.metric != "mcnemar_p")
    assert all_rows(Measurements()) == []


def test_rows_of_one_set_and_model_stand_together_in_the_order_of_the_answers():
    by_set = [row for row in ROWS if row.metric != "su_f1"]
    groups = [(row.dataset, row.model) for row in by_set]
    changes = [one for one, before in zip(groups, [None, *groups], strict=False) if one != before]
    assert changes == in_order((row["dataset"], row["model"]) for row in ANSWERS)
    first = [row.metric for row in by_set if (row.dataset, row.model) == groups[0]]
    assert first == [
        "refusal_rate", "empty_rate", "entropy", "ngram_entropy", "mean_length", "repetition"
    ]  # fmt: skip
    assert [row.metric for row in ROWS[len(by_set) :]] == ["su_f1"] * 2


def test_a_metrics_module_gives_its_rows_once_under_however_many_names():
    rows = all_rows(Measurements(choices=made_up_choices()))  # letter and generate: one module
    assert len(rows) == len({(row.metric, row.model) for row in rows}) == 10


def test_every_row_has_a_column_to_be_shown_in():
    judges = {"one": "0" * 64, "two": "1" * 64}
    values = {"alpaca": {"tuned": [[3.0, 2]]}}
    scores = {
        "perplexity": {"values": values, "by": ["scorer", "2" * 64]},
        "kl": {"values": {"tuned": {"alpaca": [[3.0, 2]]}}, "by": ["base", "3" * 64]},
    }
    answers = [row | {"class": "partial", "verdicts": {"one": 0, "two": 0.5}} for row in ANSWERS]
    rows = all_rows(Measurements(answers, made_up_choices(), judges, scores))
    assert {row.metric for row in rows} == columns().keys()


def test_a_metric_is_one_module_and_one_line(monkeypatch):
    module = ModuleType("made_up_metric")

    def rows(measured: Measurements) -> list[ResultRow]:
        return [
            ResultRow(dataset, "exclamations", model, sum("!" in a["answer"] for a in group), 12)
            for (dataset, model), group in measured.groups.items()
        ]

    module.rows, module.COLUMNS = rows, {"exclamations": Column("answers with !", "{:.0f}")}
    monkeypatch.setitem(sys.modules, "made_up_metric", module)
    monkeypatch.setitem(METRICS, "exclamations", MetricLine("made_up_metric"))
    found = [row for row in all_rows(Measurements(ANSWERS)) if row.metric == "exclamations"]
    assert found == rows(Measurements(ANSWERS)) and len(found) == 6
    assert found[0].value == pytest.approx(11)  # one of twelve refuses, without a !
    assert columns()["exclamations"] == Column("answers with !", "{:.0f}")
