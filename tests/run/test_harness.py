"""eval.harness: the harness's own tasks of base and tuned, paired, in the report and its gate."""

import importlib.util
import io
import json
import re
import sys

import numpy as np
import pytest
from rich.console import Console

from nt_jax.cli import main
from nt_jax.config.load import load_config
from nt_jax.console import shown_on
from nt_jax.errors import ConfigError
from nt_jax.eval.lm_eval import paired
from nt_jax.eval.lm_eval.tasks import UNSAFE, why_unread
from nt_jax.eval.metrics.result import find
from nt_jax.generate.chat import open_model
from tests.eval.test_lm_eval import CHOICE, DOCS
from tests.run.test_evaluate import lines_of, measured, models, recipe, rows_of  # noqa: F401

installed = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not installed, reason="lm-eval is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # the harness and what it imports warn
ONE = "eval.harness=[local_choice]"


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder with one local task."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    (folder / "local_choice.yaml").write_text(CHOICE.format(file=folder / "docs.jsonl"))
    return folder


THINGS = ("bread", "a short answer", "the dough", "Paris", "salt and water", "a cake", "an egg",
          "nothing at all", "the oven", "a long walk", "tea", "soup")  # fmt: skip
CHOICES = [" b", " c", " s", " he", " is", " the", " and", " it"]  # one token each: none is shorter


def torch_choices(folder, texts: list[str], tokenizer) -> list[int]:
    """The likeliest continuation of each text under the checkpoint, as torch has it."""
    import torch
    from transformers import AutoModelForCausalLM

    twin, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), []
    for text in texts:
        scores, context = [], tokenizer.encode(text.rstrip())
        for choice in CHOICES:
            ids = tokenizer.encode(text + choice)
            with torch.no_grad():
                row_TV = torch.log_softmax(twin(torch.tensor([ids])).logits[0].double(), -1)
            places = range(len(context), len(ids))
            scores.append(sum(row_TV[n - 1, ids[n]].item() for n in places))
        found.append(int(np.argmax(scores)))
    return found


@needs_harness
def test_two_models_are_paired_as_torch_scores_them(tmp_path, models, recipe, tasks):  # noqa: F811
    base, other = models / "first", models / "second"
    texts = [f"{mood} I {do} {thing}?" for thing in THINGS for mood in ("Can", "How do")
             for do in ("bake", "find")]  # fmt: skip
    tokenizer = open_model(str(base), "float32").tokenizer
    chosen = [torch_choices(where, texts, tokenizer) for where in (base, other)]
    label = [chosen[n % 4 == 3][n] for n in range(len(texts))]  # mostly what the base takes
    expected = {
        name: [int(mine == right) for mine, right in zip(choices, label, strict=True)]
        for name, choices in zip(("base", "second"), chosen, strict=True)
    }
    assert 0 < sum(expected["second"]) < sum(expected["base"]) < len(texts)
    docs = [dict(question=text, choices=CHOICES, label=right)
            for text, right in zip(texts, label, strict=True)]  # fmt: skip
    (tasks / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    words = [ONE, f"eval.harness_folder={tasks}", "eval.harness_chat=false", "eval.limit=null"]
    words += ["eval.datasets=[demo_direct]", "eval.sources.demo_direct=" + str(few(tmp_path))]
    folder = tmp_path / "run"
    screen = measured(recipe, folder, other, *words, beside_base=True)
    rows = rows_of(folder)
    found = lines_of(folder / "eval" / "tasks.jsonl")
    for name, right in expected.items():
        mine = {r["id"]: r["value"] for r in found if r["model"] == name and r["metric"] == "acc"}
        assert [mine[f"local_choice/{n}"] for n in range(len(texts))] == right
        assert find(rows, "local_choice", "acc", name).value == pytest.approx(np.mean(right))
    change = find(rows, "local_choice", "acc_change", "second")
    assert change.value == pytest.approx(np.mean(expected["second"]) - np.mean(expected["base"]))
    assert change.n == len(texts) and change.low <= change.value <= change.high
    text = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert "local_choice, acc: " in screen and "local\\_choice, acc: " in text
    assert "margin 3 points" in text and "acc\\_change" in text
    scored = (folder / "tasks-base" / "tasks-0.jsonl").stat().st_mtime_ns
    again = measured(recipe, folder, other, *words, "eval.gate_margin=1", beside_base=True)
    assert "held, margin 100 points" in again
    assert (folder / "tasks-base" / "tasks-0.jsonl").stat().st_mtime_ns == scored


def few(folder):
    path = folder / "few.jsonl"
    path.write_text(json.dumps({"prompt": "break thing"}) + "\n")
    return path


@needs_harness
def test_what_cannot_be_read_is_said_in_one_line_before_any_work(tmp_path, models, recipe, tasks):  # noqa: F811
    (tasks / "docs.jsonl").unlink()
    words = [f"eval.harness_folder={tasks}"]
    with pytest.raises(ConfigError, match="questions of 'local_choice' cannot be read") as error:
        measured(recipe, tmp_path / "run", models / "first", ONE, *words)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="has no task 'no_such'"):
        measured(recipe, tmp_path / "run", models / "first", "eval.harness=[no_such]", *words)


CODE = """
task: local_code
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: generate_until
unsafe_code: true
doc_to_text: "{{{{question}}}}"
doc_to_target: "x"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 3}}
metric_list:
  - {{metric: !function local_code.pass_at_k, aggregation: mean, higher_is_better: true, k: [1]}}
"""


@needs_harness
def test_code_is_run_only_where_it_is_allowed(tasks, monkeypatch):
    """In the form of the harness's humaneval, whose metric is called otherwise than its scores."""
    from nt_jax.eval.lm_eval.model import JaxLM

    monkeypatch.delenv(UNSAFE, raising=False)
    (tasks / "local_code.yaml").write_text(CODE.format(file=tasks / "docs.jsonl"))
    metric = "def pass_at_k(references, predictions, k):\n    return {'pass@1': 1.0}\n"
    (tasks / "local_code.py").write_text(metric)
    words = ["eval.harness=[local_code]", f"eval.harness_folder={tasks}", "eval.limit=2"]
    config = load_config(None, [*words, "model.source=x"]).eval
    with pytest.raises(ConfigError, match=rf"runs the models' answers as code .*{UNSAFE}=1"):
        paired.check_tasks(config)
    monkeypatch.setenv(UNSAFE, "1")
    paired.check_tasks(config)
    rows = paired.task_rows(JaxLM(str(tmp_models()), batch_size=2), "local_code", config)
    assert [(row["metric"], row["value"]) for row in rows] == [("pass@1", 1.0)] * 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError(f'set the environment variable {UNSAFE}="1"'), "answers as code"),
        (ModuleNotFoundError("No module named 'x'"), r"pip install 'lm-eval\[ifeval\]'"),
        (ConnectionError("Couldn't\nreach it"), r"read \(Couldn't reach it\).*no network"),
    ],
)
def test_what_keeps_a_task_from_being_read_is_told_apart(error, said):
    assert re.search(said, why_unread("ifeval", error))


@needs_harness
def test_a_task_that_is_done_is_not_repeated_after_a_kill(tmp_path, monkeypatch):
    """And one without a score that can be paired is named."""
    from types import SimpleNamespace

    model = open_model(str(tmp_models()), "float32")
    subject = SimpleNamespace(name="base", model=model, factors_LF=model.lm.ones_LF)
    config = load_config(None, ["eval.harness=[one, two]", f"model.source={tmp_models()}"]).eval
    asked = []

    def rows(lm, name, config):
        asked.append(name)
        if asked == ["one", "two"]:
            raise KeyboardInterrupt
        return [{"dataset": name, "id": "0", "metric": "acc", "value": 1.0}]

    monkeypatch.setattr(paired, "task_rows", rows)
    with pytest.raises(KeyboardInterrupt):
        paired.run_paired(subject, config, False, tmp_path)
    said = paired.run_paired(subject, config, False, tmp_path)
    assert asked == ["one", "two", "two"] and said.startswith("2 scores of 2 tasks")
    paired.join_tasks([tmp_path], config, tmp_path)
    assert [row["dataset"] for row in lines_of(tmp_path / "tasks.jsonl")] == ["one", "two"]


def tmp_models():
    from tests import tiny

    return tiny.checkpoint("smollm2")


def test_scores_that_cannot_be_paired_are_left_out():
    document = {"doc_id": 3, "filter": "strict", "metrics": ["acc", "parts", "ppl", "bytes", "f1"],
                "acc": np.float64(1), "parts": [1, 0], "ppl": (3.2, 1), "bytes": 0.2,
                "f1": (1, 0)}  # fmt: skip
    better = {"sub": {"acc": True, "parts": True, "ppl": True, "bytes": False, "f1": True}}
    rows = paired.sample_rows("all", {"sub": [document]}, better)
    assert rows == [
        {"dataset": "all", "id": "sub/3", "metric": "acc,strict", "value": 1.0},
        {"dataset": "all", "id": "sub/3", "metric": "parts,strict", "value": 0.5},
    ]


def test_one_score_outside_0_to_1_takes_its_metric_along():
    """bleu_max in points: those of 0.4 and 0.9 points are no scores in 0..1."""
    documents = [
        {"doc_id": n, "metrics": ["bleu_max", "acc"], "bleu_max": value, "acc": 1}
        for n, value in enumerate((35.2, 0.4, 12.0, 0.9))
    ]
    better = {"sub": {"bleu_max": True, "acc": True}}
    rows = paired.sample_rows("all", {"sub": documents}, better)
    assert [row["metric"] for row in rows] == ["acc"] * 4


def test_a_metric_that_one_model_lacks_is_left_out_by_name(tmp_path):
    config = load_config(None, ["eval.harness=[one]", "model.source=x"]).eval
    folders = [tmp_path / name for name in ("base", "tuned")]
    for folder, metrics in zip(folders, (["acc", "bleu_max"], ["acc"]), strict=True):
        folder.mkdir()
        rows = [{"dataset": "one", "id": "0", "metric": m, "value": 0.5} for m in metrics]
        text = "".join(json.dumps({"model": folder.name, **row}) + "\n" for row in rows)
        (folder / "tasks-0.jsonl").write_text(text)
    screen = io.StringIO()
    with shown_on(Console(file=screen, width=120)):
        paired.join_tasks(folders, config, tmp_path)
    found = [(row["model"], row["metric"]) for row in lines_of(tmp_path / "tasks.jsonl")]
    assert found == [("base", "acc"), ("tuned", "acc")]
    assert "bleu_max of one: outside 0..1 for some model" in screen.getvalue()


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", [], "eval.harness asks finished models"),
        ("eval", [], "eval.harness asks finished models"),
        ("eval", ["--model", "x", "eval.engine=openai", "eval.url=http://127.0.0.1:1/v1",
                  "eval.served=m"], "needs eval.engine=jax"),
        ("eval", ["--model", "x", "eval.harness=[a, a]"], "names one twice"),
    ],
)  # fmt: skip
def test_where_it_does_not_belong_one_line_says_so(capsys, command, words, said):
    recipe_ = ["--config", "smollm2-135m"] if "--model" not in words else []
    assert main(command, [*recipe_, ONE, *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in " ".join(lines) and len(lines) == 1


def test_without_the_harness_one_line_says_what_to_do(tmp_path, models, recipe, monkeypatch):  # noqa: F811
    for name in ("lm_eval", "lm_eval.evaluator", "lm_eval.tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'nt_jax\[lm-eval\]'"):
        measured(recipe, tmp_path / "run", models / "first", ONE)
    assert not (tmp_path / "run").exists()
