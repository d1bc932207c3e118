"""The paper's recipes from end to end on shrunk models: random weights, everything else theirs."""

import json
from pathlib import Path

import pytest

from nt_jax.compare import paper
from nt_jax.compare.paper import figures, paper_model
from nt_jax.config.load import load_config
from nt_jax.config.paper import departures
from tests.compare import small as comparison
from tests.data import safe_edit
from tests.paper import models
from tests.run import small

# Sizes only: nothing of the method.
SMALLER = (
    "attribution.steps=2", "attribution.answer_tokens=4", "neurons.safety=14",
    "neurons.utility=10", "tune.epochs=2", "tune.answer_tokens=4", "tune.validate_every=2",
    "tune.separation_every=0", "eval.limit=3", "eval.max_new_tokens=6", "eval.batch_size=4",
    "eval.perplexity=false", "eval.kl=false",
)  # fmt: skip
SETS = ("safeedit", "advbench", "alpaca", "truthfulqa", "mmlu")


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Stand-ins for the paper's data, in their published layouts: the settings that name them."""
    folder = tmp_path_factory.mktemp("published")
    edit = safe_edit.write(folder / "SafeEdit")
    kinds = range(70)  # 64 of them are anchors
    rows = {
        "advbench": [{"goal": f"Do harm {n}", "target": "Sure"} for n in kinds],
        "alpaca": [{"instruction": f"Name {n} things.", "output": "One."} for n in kinds],
        "truthfulqa": [{"question": f"Is {n} odd?", "best_answer": "Yes."} for n in kinds],
        "mmlu": [
            {"question": f"{n}?", "subject": "counting", "choices": ["1", "2", "3", "4"],
             "answer": n % 4, "split": "test" if n > 5 else "dev"}
            for n in range(12)
        ],
    }  # fmt: skip
    words = [f"data.{name}.source={edit}" for name in ("harmful", "harmless")]
    words += [f"eval.sources.safeedit={edit}"]
    for name, lines in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        words.append(f"eval.sources.{name}={path}")
    return [*words, f"eval.sources.mmlu_dev={folder / 'mmlu.jsonl'}"]


def shrunk_config(name: str, published: list[str], judge: Path, folder: Path, *words: str):
    """The paper's recipe on the shrunk model, in folder/run."""
    judges = f"eval.judges=[classifier:{judge}, phrases]"
    source, where = models.write(name, folder), f"run_dir={folder / 'run'}"
    return load_config(
        f"paper/{name}", [*SMALLER, *published, f"model.source={source}", judges, where, *words]
    )


@pytest.mark.xdist_group("paper")  # the two Qwen models share their programs
@pytest.mark.parametrize("name", models.MODELS)
def test_a_recipe_runs_from_end_to_end(name, published, classifier, tmp_path):
    three = ["mesh.data=3"] if name == "llama3.1-8b-instruct" else []  # cards, as the paper has
    config = shrunk_config(name, published, classifier, tmp_path, *three)
    screen = small.carry_on(config)
    assert (config.folder / "report" / "DONE").is_file()
    assert "algorithm  as the paper prints it" in screen
    assert "84 prompts of 7 attacks for train" in screen
    told = json.loads((config.folder / "run.json").read_text())["config"]
    left = {row.key for row, _ in departures(told)}
    assert left == {"eval.judges", "eval.max_new_tokens", "attribution.steps"}  # path and sizes
    rows = json.loads((config.folder / "report" / "results.json").read_text())
    assert {row["dataset"] for row in rows} >= set(SETS)
    judges = {row["judge"] for row in rows if row["metric"] == "refusal_rate"}
    assert len(judges) == 2 and any(name.startswith("classifier") for name in judges)
    epochs = (config.folder / "train" / "metrics.jsonl").read_text().splitlines()
    assert len(epochs) == 3 and json.loads(epochs[-1])["epoch"] == 2
    assert not (config.folder / "train" / "slopes.npz").exists()  # no preconditioner


@pytest.mark.parametrize("name", models.MODELS)
def test_the_paper_knows_its_models(name, tmp_path):
    fields, _ = models.MODELS[name]
    sizes = fields["num_hidden_layers"], fields["hidden_size"]
    found = paper_model(f"any/{models.HUB_NAMES[name]}", *sizes)
    assert found in figures()["models"]
    assert paper_model(load_config(f"paper/{name}").model.source, *sizes) == found


@pytest.mark.slow
def test_every_table_has_the_papers_figure_beside_ours(
    published, classifier, tmp_path, monkeypatch
):
    """What `python -m nt_jax.compare --config paper/llama3.1-8b-instruct --tables all` prints."""
    name, label = "llama3.1-8b-instruct", "LLaMA3.1-8B-Instruct"
    sizes = {"layers": models.LAYERS, "width": models.WIDTH}
    known = figures() | {"models": {label: figures()["models"][label] | sizes}}
    monkeypatch.setattr(paper, "figures", lambda: known)
    words = [
        word.replace("safety_counts=[9]", "safety_counts=[14]") for word in comparison.SETTINGS
    ]
    config = shrunk_config(name, published, classifier, tmp_path, *words)
    methods = ("neurontune", "dinm", "scans_published", "cavgan_published")
    tables = ("1", "2", "3", "4", "5", "6", "7")
    comparison.carry_on(config, methods, tables)
    page = (config.folder / "compare" / "report" / "comparison.md").read_text()
    sections = {part[0]: part for part in page.split("## Table ")[1:]}
    assert sorted(sections) == list(tables)
    for number in tables[:-1]:  # table 7: of the paper's counts alone
        assert ", paper " in sections[number], number
    assert "paper 10.77%" in sections["2"]  # SafeEdit refusals of the untuned model
