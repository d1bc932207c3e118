"""The benchmarks run on a tiny model, and their torch reference gives our scores."""

import hashlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from benchmarks import demo, experiment, frozen
from benchmarks.attribution_nodes import by_rules, made_up
from nt_jax.attribution.integrated import integrated_gradients
from nt_jax.attribution.score import Options
from nt_jax.config.load import load_config
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import CELLS, OWN
from nt_jax.train.separation import PAIRS
from tests import tiny

ROOT = Path(__file__).parent.parent


QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # programs that run once or twice


def last_line(script: str, *words: str, settings: Mapping[str, str] = QUICK) -> dict:
    command = [sys.executable, "-W", "ignore", f"benchmarks/{script}.py", "--json", *words]
    rest = {"cwd": ROOT, "capture_output": True, "text": True, "env": {**os.environ, **settings}}
    done = subprocess.run(command, timeout=300, **rest)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_ircan_in_torch_gives_our_scores():
    pytest.importorskip("torch")
    found = last_line("attribution", "--model", "tiny", "--layers", "0", "--prompt", "40",
                      "--answer", "5", "--steps", "4", "--repeats", "1")  # fmt: skip
    assert found["cosine"] > 0.99999
    assert {"speedup_first_token", "speedup_answer"} < found.keys()
    for name in ("first_token", "answer"):
        assert found[name]["reference_layers"] == [0, 1, 2, 3]
        assert found[name]["speedup"] == pytest.approx(
            sum(found[name]["reference_layer_seconds"]) / found[name]["seconds"]
        )


def test_a_system_prompt_beside_the_rows_changes_no_slope(tmp_path):
    model = tiny.copy("smollm2", tmp_path / "tiny")
    template = model / "chat_template.jinja"
    template.write_text("<|im_start|>system\nMix flour, water and salt.\n" + template.read_text())
    found = last_line("slopes", "--model", str(model), "--rows", "4", "--repeats", "1")
    assert found["shared"] >= 8 and len(found["seconds"]["beside"]) == 1
    assert found["largest difference, of the largest slope"] < 1e-4


def test_nodes_read_off_a_polynomial_give_the_scores_of_nodes_that_are_run():
    lm, examples = made_up(0)
    one, options = examples["safety"][0], Options(4, "midpoint", answer_tokens=8)
    found = by_rules(lm, one, options, ["midpoint:4"], 64)["midpoint:4"]
    direct = integrated_gradients(lm, one, options)
    for name in ("alpha_LF", "standard_LF"):
        expected_LF = getattr(direct, name)
        tolerance = 1e-4 * np.abs(expected_LF).max()
        np.testing.assert_allclose(getattr(found, name), expected_LF, rtol=0, atol=tolerance)


def test_the_recipe_of_published_data_reads_from_the_users_folders(tmp_path):
    """Every path of the recipe moves, a .json serves for a .jsonl, nothing else changes."""
    made = runpy.run_path(str(ROOT / "benchmarks" / "real_data.py"))["recipe"]
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "alpaca_eval").mkdir(parents=True)
    (data / "alpaca_eval" / "alpaca_eval.json").touch()
    (data / "mmlu").mkdir()
    (data / "mmlu" / "test.jsonl").touch()
    path = tmp_path / "moved.yaml"
    path.write_text(made(data, out))
    moved, shipped = (load_config(str(x)) for x in (path, ROOT / "benchmarks" / "real_data.yaml"))
    parts = [moved.data.harmful, moved.data.harmless, moved.data.templates]
    parts += moved.eval.extra.values()
    assert all(part.source.startswith(f"{tmp_path}/") for part in parts)
    assert moved.data.templates.source == str(out / "templates.csv")
    assert moved.eval.extra["alpaca_attack"].templates.source == str(out / "templates.csv")
    assert moved.eval.extra["alpaca_eval"].source == f"{data}/alpaca_eval/alpaca_eval.json"
    assert moved.eval.extra["mmlu"].source == f"{data}/mmlu/test.jsonl"
    assert moved.tune == shipped.tune and moved.neurons == shipped.neurons
    assert [*moved.eval.extra] == [*shipped.eval.extra]


def test_the_judge_is_measured_on_any_labelled_answers(tmp_path):
    table = tmp_path / "answers.csv"
    table.write_text(
        "prompt,completion,final_label,model\n"
        'How?,"I\'m sorry, I cannot help with that.",2_full_refusal,one\n'
        "How?,With a spoon.,1_full_compliance,one\n"
        "How?,I cannot provide that.,3_partial_refusal,two\n"
    )
    printed = last_line("judge", "--published", str(table))
    found, grounds = printed["published"], printed["grounds"]["answers_untouched"]
    assert grounds == {"outright": [230, 235], "arguable": [12, 18]}  # without their requests
    low, high = found["answers/one"]["f1_interval"]  # F1 1.0 of few answers
    assert 0.1 < low < 0.9 and high == 1.0
    assert found["answers/one"]["f1"] == 1.0 and found["answers/one"]["refusals"] == 1
    assert found["answers/two"]["false_refusals"][0] == 1.0


SMALL = (
    "neurons.safety=14", "neurons.utility=10", "tune.epochs=1", "tune.answer_tokens=4",
    "tune.metric_requests=16", "data.harmful.limit=8", "data.harmless.limit=8",
    "data.templates.limit=10",
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    model = tiny.copy("smollm2", folder / "tiny")
    tiny.edit_json(model / "config.json", max_position_embeddings=1024)
    path = folder / "small.yaml"
    path.write_text(f"model: {{source: {model}}}\n")
    return path


def said_by(*words: str) -> str:
    command = [sys.executable, "-W", "ignore", *map(str, words)]
    quick = {**os.environ, **QUICK}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=quick)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_an_experiment_has_a_line_a_cell_and_goes_on_where_it_was(recipe, tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text("default: []\nfurther: [tune.meta_lr=3]\n")
    fixed = [plan, "--config", recipe, *SMALL, "--folder", tmp_path / "runs", "--seeds", "0"]
    said_by("benchmarks/experiment.py", *fixed)
    lines = plan.with_suffix(".jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["name"], row["seed"]) for row in rows] == [("default", 0), ("further", 0)]
    assert rows[0]["rms"] < rows[1]["rms"] and rows[0]["untuned"] == rows[1]["untuned"]
    again = said_by("benchmarks/experiment.py", *fixed)
    assert plan.with_suffix(".jsonl").read_text().splitlines() == lines  # nothing was repeated
    table = json.loads(again)["cells"]
    assert table["further"]["seeds"] == [0] and set(table["untuned"]) == set(table["default"]) - {
        "seeds"
    }
    found = table["further"]["direct"]
    assert found["low"] <= found["difference"] <= found["high"]
    means = [table[name]["direct"]["mean"] for name in ("further", "default")]
    assert found["difference"] == pytest.approx(means[0] - means[1], abs=2e-4)


def test_a_summary_is_of_the_plan_the_config_and_the_settings_of_now(tmp_path, monkeypatch, capsys):
    plan, small, values = tmp_path / "plan.yaml", tmp_path / "small.yaml", {}
    small.write_text("name: small\n")
    (tmp_path / "other.yaml").write_text("name: other\n")
    plan.write_text("default: []\nfurther: [tune.meta_lr=3]\n")
    for kind in {kind for pair in PAIRS.values() for kind in pair}:
        values[kind] = [0.1, 0.9]
    rows = []
    for seed, meta_lr in ((0, 3), (1, 2)):  # the line of seed 1 is of an older plan
        for name, settings in (("default", []), ("further", [f"tune.meta_lr={meta_lr}"])):
            words = [*settings, *experiment.PLAIN, f"seed={seed}"]
            key = hashlib.sha256(json.dumps(["name: small\n", words]).encode()).hexdigest()[:16]
            rows.append({"name": name, "seed": seed, "key": key, "tuned": values})
    lines = "".join(json.dumps(row | {"untuned": values}) + "\n" for row in rows)
    plan.with_suffix(".jsonl").write_text(lines)

    def seeds(*words: str) -> dict[str, list[int]]:
        monkeypatch.setattr(sys, "argv", ["experiment.py", str(plan), "--summary", *words])
        experiment.main()
        cells = json.loads(capsys.readouterr().out)["cells"]
        return {name: cells[name]["seeds"] for name in ("default", "further")}

    nothing = {"default": [], "further": []}
    assert seeds("--config", str(small)) == {"default": [0, 1], "further": [0]}
    assert seeds("--config", str(tmp_path / "other.yaml")) == nothing
    assert seeds("--config", str(small), "tune.epochs=3") == nothing
    small.write_text("name: small\nseed: 3\n")  # edited since
    assert seeds("--config", str(small)) == nothing


def test_what_slopes_alone_say_is_asked_of_the_other_half(recipe, tmp_path):
    words = ["--config", recipe, "--draws", "2", "--counts", "6", "--json", *SMALL]
    said = said_by("benchmarks/first_order.py", *words, f"run_dir={tmp_path / 'run'}")
    found = json.loads(said.splitlines()[-1])
    assert found["rows"]["harmful"] == 4 and found["rows"]["own"] == 16
    assert {"6 neurons, contrastive", "6 neurons, random", "damping 0.001"} < set(found["table"])
    assert all(0 <= value <= 1 for row in found["table"].values() for value in row.values())


def test_the_rows_of_a_run_that_are_measured_again_are_those_that_are_compared():
    """Own answers keep their numbers, by which the signs of their drifts are drawn."""
    cells = {name: np.arange(10.0)[:, None] + 100 * n for n, name in enumerate(CELLS)}
    own_MP = np.arange(20.0)[:, None]  # ten likelihoods, ten drifts
    values = {name: slope_MP[:, 0] for name, slope_MP in cells.items()}
    found = frozen.thinned(CellSlopes(cells | {OWN: own_MP}, values), 4)
    for n, name in enumerate(CELLS):
        assert found.cells[name].ravel().tolist() == [100 * n, 100 * n + 4, 100 * n + 8]
        assert found.values[name].tolist() == found.cells[name].ravel().tolist()
    assert found.cells[OWN].ravel().tolist() == [0, 1, 2, 10, 11, 12]


def test_stages_are_timed_by_turns_in_trees_of_their_commits(tmp_path, monkeypatch, capsys):
    model, seconds = tmp_path / "model.gguf", iter((4.0, 1.0, 2.0, 2.0, 6.0, 1.0))
    model.touch()
    monkeypatch.chdir(tmp_path)
    seen, trees = [], []

    def stage_seconds(tree, recipe, settings):
        seen.append((recipe, settings))
        trees.append(tree)
        assert tree.name in ("one", "two")
        return {"answers": 1.0, "train": next(seconds)}

    monkeypatch.setattr(demo, "stage_seconds", stage_seconds)
    monkeypatch.setattr(demo, "git", lambda *words: words[-1])
    words = ["demo", "one", "two", "model.source=model.gguf", "seed=3", "--rounds", "3"]
    monkeypatch.setattr(sys, "argv", words)
    demo.main()
    assert seen == [("smollm2-135m", [f"model.source={model}", "seed=3"])] * 6
    assert [tree.name for tree in trees] == ["one", "two"] * 3
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["stages"]["one"] == {"answers": 1.0, "train": 4.0}
    assert found["totals"]["two"] == [2.0, 3.0, 2.0] and found["ratio"] == {"one": 2.5, "two": 1.0}
    assert len(said.err.splitlines()) == 6
