"""Tasks of eval.harness_folder are measured anew for all models once its files are others."""

# ruff: noqa: F811
import json
from pathlib import Path

import pytest

from nt_jax.run import evaluate
from nt_jax.run.evaluate import harness_hash
from tests.run.test_evaluate import FEW, lines_of, measured, models, recipe  # noqa: F401

ONE = ["eval.harness=[one]", *FEW]


@pytest.fixture
def asked(monkeypatch):
    """The models whose tasks were measured: each finds what the task's file says of it."""
    found = []

    def run(subject, config, thinking, to):
        found.append(subject.name)
        row = {"dataset": "one", "id": "0", "model": subject.name, "metric": "acc"}
        task = Path(config.harness_folder or to) / "one.yaml"
        value = len(task.read_text()) % 2 if task.exists() else 1
        (to / "tasks-0.jsonl").write_text(json.dumps(row | {"value": value}) + "\n")
        return "scored"

    monkeypatch.setattr(evaluate, "check_tasks", lambda config: None)
    monkeypatch.setattr(evaluate, "run_paired", run)
    return found


def test_a_corrected_task_is_measured_anew_for_base_and_tuned(tmp_path, models, recipe, asked):
    folder, tasks = tmp_path / "tasks" / "run", tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "one.yaml").write_text("odd")
    words = [*ONE, f"eval.harness_folder={tasks}"]

    def again() -> list[str]:
        asked.clear()
        measured(recipe, folder, models / "second", *words, beside_base=True)
        return sorted(asked)

    assert again() == ["base", "second"]
    (tasks / "__pycache__").mkdir()
    (tasks / "__pycache__" / "metric.pyc").write_bytes(b"compiled while it was measured")
    (tasks / ".one.yaml.swp").write_text("an editor's")
    assert again() == []
    (tasks / "one.yaml").write_text("even")
    assert again() == ["base", "second"]
    scores = {row["model"]: row["value"] for row in lines_of(folder / "eval" / "tasks.jsonl")}
    assert scores == {"base": 0, "second": 0}
    assert again() == []
    (tasks / "metric.py").write_text("")  # code beside a task is part of it
    assert again() == ["base", "second"]


def test_without_a_folder_nothing_but_the_settings_counts(tmp_path, models, recipe, asked):
    measured(recipe, tmp_path / "run", models / "second", *ONE)
    measured(recipe, tmp_path / "run", models / "second", *ONE)
    assert asked == ["second"]
    assert "harness" not in json.loads((tmp_path / "run" / "run.json").read_text())["hashes"]


def test_names_and_contents_count_and_not_where_the_folder_lies(tmp_path):
    seen = set()
    for number, (name, text) in enumerate([("a.yaml", "x"), ("b.yaml", "x"), ("b/c.yaml", "x"),
                                           ("a.yaml", "y"), ("a.yaml", "")]):  # fmt: skip
        for place in ("here", "there"):
            file = tmp_path / f"{place}{number}" / name
            file.parent.mkdir(parents=True)
            file.write_text(text)
            seen.add(harness_hash(tmp_path / f"{place}{number}", tmp_path / "run"))
        assert len(seen) == number + 1
