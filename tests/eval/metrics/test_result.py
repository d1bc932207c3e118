"""Rows and records: pairing, and results.json."""

import json

import pytest

from nt_jax.errors import RunError
from nt_jax.eval.metrics.result import ResultRow, paired, read_rows, write_rows

ROWS = [
    ResultRow(
        "demo_attack", "refusal_rate", "base", 4 / 60, 60, 0.03, 0.16, "phrases-v2", "0" * 64
    ),
    ResultRow("demo_attack", "mcnemar_p", "tuned", 1e-12, 60, judge="phrases-v2"),
    ResultRow("demo_attack+demo_harmless", "su_f1", "tuned", 0.802, 180, 0.7, 0.9),
]


def test_records_of_two_datasets_may_share_an_id():
    first = [{"dataset": name, "id": 1, "text": name} for name in ("a", "b")]
    assert [(x["text"], y["text"]) for x, y in paired(first, first[::-1])] == [
        ("b", "b"),
        ("a", "a"),
    ]


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
        with pytest.raises(RunError, match=r"results\.json is damaged \(.*Delete it, then repeat"):
            read_rows(path)
