"""All rows of a result, and what it takes to add a metric."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from nt_jax.config.registry import METRICS, MetricLine
from nt_jax.config.schema import EvalConfig
from nt_jax.eval.answer_file import RecordFile, answer_rows
from nt_jax.eval.answering import answers_path
from nt_jax.eval.judges.judge import judges_to_open
from nt_jax.eval.measure import measure, result_rows
from nt_jax.eval.metrics.refusal import SOUNDS_HARMFUL
from nt_jax.eval.metrics.result import Column, Measurements, ResultRow, find, in_order
from nt_jax.eval.metrics.rows import all_rows, columns
from nt_jax.eval.prompts import TestPrompt, Tests
from nt_jax.eval.under_test import ModelUnderTest
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
    told = {"class": "partial", "verdicts": {"one": 0, "two": 0.5}}
    answers = [row | told | {"sounds_harmful": row["id"] == "r0"} for row in ANSWERS]
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


def test_answers_are_told_apart_by_the_marks_of_their_requests(tmp_path):
    """Marks are no part of the question: answers that were kept before there were any have them."""
    every = [
        TestPrompt(
            "demo_harmless", str(n), f"Ask {n}", f"Ask {n}", harmful=False, sounds_harmful=n < 2
        )
        for n in range(5)
    ]
    config, models = EvalConfig(perplexity=False, kl=False), []
    for name, refused in (("base", {4}), ("tuned", {0, 4})):
        texts = [
            "I'm sorry, but I can't help with that." if n in refused else "So." for n in range(5)
        ]
        file = RecordFile(answers_path(tmp_path, name))
        file.append(answer_rows(name, every, texts))
        assert not any("sounds_harmful" in row for row in file.rows.values())
        models.append((ModelUnderTest(name, SimpleNamespace(chat=None)), tmp_path))
    measure(
        models, Tests(every, []), config, tmp_path,
        judges=judges_to_open(["phrases"], None), scorer=None,
    )  # fmt: skip
    rows, answers = result_rows(tmp_path, 0)
    assert [row["id"] for row in answers if row.get("sounds_harmful")] == ["0", "1"] * 2
    rate, change = (find(rows, "demo_harmless", name, "tuned") for name in SOUNDS_HARMFUL[:2])
    assert (rate.value, rate.n, change.value) == (0.5, 2, 0.5)
