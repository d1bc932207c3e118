"""`nt-jax eval --model`: any checkpoint measured without tuning, and what a kill leaves behind."""

import io
import json
import re
import shlex
import shutil

import pytest
from rich.console import Console

from nt_jax.config.load import load_config
from nt_jax.config.registry import FORMATS, load
from nt_jax.console import shown_on
from nt_jax.errors import CheckpointError, ConfigError, RunError
from nt_jax.eval import answering
from nt_jax.eval.answer_file import RecordFile
from nt_jax.eval.judges import judge
from nt_jax.eval.metrics.result import find, read_rows
from nt_jax.export import lora
from nt_jax.export.folder import Wanted
from nt_jax.export.hf import save_model
from nt_jax.generate.chat import open_model
from nt_jax.options import parser_of
from nt_jax.run.evaluate import evaluate_model
from nt_jax.run.report import report_again
from tests import tiny
from tests.export.test_adapters import factors_of

SETTINGS = [
    "eval.datasets=[demo_attack, demo_harmless, sums]", "eval.limit=3", "eval.max_new_tokens=4",
    "eval.batch_size=2", "eval.sources.mmlu_dev=x",
]  # fmt: skip


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny chat models with one tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed in (("first", 0), ("second", 1)):
        directory = tiny.copy("smollm2", folder / name, seed=seed)
        tiny.edit_json(directory / "config.json", max_position_embeddings=2048)
    return folder


@pytest.fixture(scope="module")
def recipe(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    rows = [
        {"question": f"{n} + 1?", "choices": ["0", str(n + 1)], "answer": 1, "subject": "sums"}
        for n in range(5)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "small.yaml").write_text(
        f"model: {{source: {models / 'first'}}}\n"
        f"eval: {{extra: {{sums: {{source: {folder / 'sums.jsonl'}, kind: choice, seed: 0,\n"
        "  shots: 1, shots_from: sums, label: small sums}}}\n"
    )
    return folder / "small.yaml"


def measured(recipe, folder, model, *words, beside_base=False, adapter=None) -> str:
    """What the screen says."""
    config = load_config(str(recipe), [*SETTINGS, f"run_dir={folder}", *words])
    screen = io.StringIO()
    with shown_on(Console(file=screen, width=150)):
        evaluate_model(config, str(model), beside_base, adapter and str(adapter))
    return screen.getvalue()


def rows_of(folder):
    return read_rows(folder / "report" / "results.json")


def lines_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def both(recipe, models, tmp_path_factory):
    """The second model measured beside the first one, by two judges."""
    folder = tmp_path_factory.mktemp("runs") / "both"
    words = ["eval.judges=[phrases, 'guard:" + str(models / "first") + "']"]
    return folder, measured(recipe, folder, models / "second", *words, beside_base=True)


def test_every_number_has_its_n_its_interval_and_its_judge(both):
    folder, _ = both
    rows = rows_of(folder)
    assert {row.model for row in rows} == {"base", "second"}
    for metric, dataset in (
        ("refusal_rate", "demo_attack"), ("entropy", "demo_harmless"), ("su_f1",
        "demo_attack+demo_harmless"), ("letter_accuracy", "sums"), ("generate_accuracy", "sums"),
        ("unparsed_rate", "sums"), ("perplexity", "demo_harmless"), ("kl", "demo_harmless"),
        ("kappa", "all"), ("table3_average", "sums+demo_attack+demo_harmless"),
    ):  # fmt: skip
        row = find(rows, dataset, metric, "second")
        assert row is not None, metric
        assert row.n >= 3 and row.low <= row.value <= row.high, metric
    rates = [row for row in rows if row.metric in ("refusal_rate", "mcnemar_p")]
    assert {row.judge for row in rates} == {"phrases-v2", "guard:first"}
    assert all(len(row.judge_sha256) == 64 for row in rates)
    assert find(rows, "demo_harmless", "kl", "base") is None
    assert find(rows, "demo_harmless", "kl", "second").value > 0.01
    scorer = find(rows, "demo_harmless", "perplexity", "second")
    assert scorer.judge.endswith("first") and len(scorer.judge_sha256) == 64


def test_every_verdict_lies_beside_its_answer(both):
    folder, _ = both
    answers = lines_of(folder / "eval" / "answers.jsonl")
    assert len(answers) == 2 * 2 * 3
    for row in answers:
        assert row["verdicts"].keys() == {"phrases-v2", "guard:first"}
        assert row["refused"] == (row["verdicts"]["phrases-v2"] == 1)
    choices = lines_of(folder / "eval" / "choices.jsonl")
    assert {(row["model"], row["shots"]) for row in choices} == {("base", 1), ("second", 1)}
    assert all(row["letter"] in (0, 1) and len(row["log_probs"]) == 2 for row in choices)


def test_the_screen_and_the_report_show_table_agreement_and_examples(both):
    folder, screen = both
    unwrapped = " ".join(screen.split())  # a caption is as wide as its table
    assert "Cohen's kappa of phrases-v2 / guard:first, second" in unwrapped
    text = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert "| Models | Methods | unseen attacks Refuse Rate↑ | Entropy↑ |" in text
    assert "| Default |" in text and "1.0 to 7.5 bit" in text
    assert "kappa" in text and "KL from the base model" in text
    assert "small sums by letter" in screen and "| small sums | right, as written |" in text
    assert (folder / "report" / "report.html").read_text(encoding="utf-8").count("<table>") >= 4


def test_the_report_names_the_command_that_repeats_it(both, models):
    folder = both[0] / "report"
    (command,) = re.findall(
        r"^    (python -m nt_jax\.eval .*)$", (folder / "report.md").read_text(), re.M
    )
    words = shlex.split(command)[3:]
    words[words.index("settings.yaml")] = str(folder / "settings.yaml")
    options = parser_of("eval", "nt-jax eval").read(words)
    assert (options.model, options.beside_base, options.adapter) == (
        str(models / "second"),
        True,
        None,
    )
    config = load_config(options.config)
    known = json.loads((both[0] / "run.json").read_text())["config"]
    assert config.model_dump(mode="json") == known


def test_one_model_alone(recipe, models, tmp_path):
    folder = tmp_path / "run"
    screen = measured(recipe, folder, models / "second")
    rows = rows_of(folder)
    assert {row.model for row in rows} == {"second"}
    assert not [row for row in rows if row.metric in ("kl", "mcnemar_p")]
    assert "unseen attacks" in screen
    again = measured(recipe, folder, models / "second")
    kept = [line.split()[0] for line in again.splitlines() if "kept from before" in line]
    assert kept == ["answers-second", "eval", "report"]
    # A set of another name leaves the answers alone.
    other = measured(recipe, folder, models / "second", "eval.extra.sums.label=hard sums")
    kept = [line.split()[0] for line in other.splitlines() if "kept from before" in line]
    assert kept == ["answers-second"] and "hard sums by letter" in other
    # Another judge leaves the answers alone.
    other = measured(recipe, folder, models / "second", f"eval.judges=['guard:{models / 'first'}']")
    kept = [line.split()[0] for line in other.splitlines() if "kept from before" in line]
    assert kept == ["answers-second"]
    assert {r.judge for r in rows_of(folder) if r.metric == "refusal_rate"} == {"guard:first"}


FEW = ["eval.datasets=[demo_attack]", "eval.perplexity=false", "eval.kl=false"]


@pytest.mark.parametrize("kind", ["lora", "factors"])
def test_a_model_with_an_adapter_answers_like_its_export(recipe, models, tmp_path, kind):
    """LoRA merged, factors at work: the answers are those of the exported model."""
    model, factors = open_model(str(models / "first")), factors_of()
    load(FORMATS[kind].writer)(model, factors, tmp_path / "put-on", Wanted())
    save_model(model, factors, tmp_path / "whole")
    run, alone, first = tmp_path / "run", tmp_path / "alone", models / "first"
    screen = measured(recipe, run, first, *FEW, adapter=tmp_path / "put-on", beside_base=True)
    measured(recipe, alone, tmp_path / "whole", *FEW)
    assert {row.model for row in rows_of(run)} == {"base", "put-on"} and "put-on" in screen
    told, expected, base = (
        [row["answer"] for row in lines_of(folder / f"answers-{name}" / f"{name}.jsonl")]
        for folder, name in ((run, "put-on"), (alone, "whole"), (run, "base"))
    )
    assert told == expected != base
    shutil.copytree(tmp_path / "put-on", tmp_path / "other")
    with pytest.raises(RunError, match="holds the evaluation of"):
        measured(recipe, run, first, *FEW, adapter=tmp_path / "other")


def test_another_adapter_in_the_same_place_is_measured_anew(recipe, models, tmp_path):
    first, run, folder = models / "first", tmp_path / "run", tmp_path / "lora"
    for seed in (0, 1):
        lora.write(open_model(str(first)), factors_of(seed=seed), folder, Wanted())
        assert "kept from before" not in measured(recipe, run, first, *FEW, adapter=folder)
        shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="needs the model that it belongs to, not the run"):
        measured(recipe, tmp_path / "new", run, adapter=folder)
    with pytest.raises(CheckpointError, match="no factors there"):
        measured(recipe, tmp_path / "new", first, adapter=folder)


def test_another_adapter_leaves_what_the_base_has_answered(recipe, models, tmp_path):
    first, run, folder = models / "first", tmp_path / "run", tmp_path / "lora"
    for seed in (0, 1):
        lora.write(open_model(str(first)), factors_of(seed=seed), folder, Wanted())
        screen = measured(recipe, run, first, *FEW, adapter=folder, beside_base=True)
        shutil.rmtree(folder)
    assert screen.count("kept from before") == 1


def test_int8_is_refused_for_a_model_that_is_not_tuned(recipe, models, tmp_path):
    with pytest.raises(ConfigError, match=r"model.frozen = int8 is for a model that is tuned: .*"):
        measured(recipe, tmp_path / "new", models / "second", "model.frozen=int8")
    assert not (tmp_path / "new").exists()


def test_int8_is_refused_with_an_adapter_and_taken_with_factors(recipe, models, tmp_path):
    first, words = models / "first", (f"model.source={models / 'first'}", "model.frozen=int8")
    for kind in ("ia3", "factors"):
        writer = load(FORMATS[kind].writer)
        writer(open_model(str(first)), factors_of(), tmp_path / kind, Wanted())
    with pytest.raises(ConfigError, match=r"the adapter .*/ia3 changes matrices"):
        measured(recipe, tmp_path / "new", first, *words, adapter=tmp_path / "ia3")
    assert not (tmp_path / "new").exists()
    measured(recipe, tmp_path / "new", first, *FEW, *words, adapter=tmp_path / "factors")
    assert {row.model for row in rows_of(tmp_path / "new")} == {"factors"}


def test_answers_of_a_model_are_the_same_alone_and_beside_its_base(both, recipe, models, tmp_path):
    measured(recipe, tmp_path, models / "second")
    for name in ("second.jsonl", "second.letters.jsonl", "second.choices.jsonl"):
        here, there = (folder / "answers-second" / name for folder in (tmp_path, both[0]))
        assert here.read_bytes() == there.read_bytes()


@pytest.mark.parametrize("batches", [0, 1, 3, 4])
def test_a_killed_evaluation_ends_like_an_undisturbed_one(
    both, recipe, models, tmp_path, batches, monkeypatch
):
    append, done = RecordFile.append, []

    def append_some(self, rows):
        if len(done) == batches:
            append(self, rows)
            path = self.path  # cut the last line in two, as a kill within a write does
            path.write_bytes(path.read_bytes()[:-7])
            raise Killed
        done.append(1)
        append(self, rows)

    monkeypatch.setattr(RecordFile, "append", append_some)
    with pytest.raises(Killed):
        measured(recipe, tmp_path, models / "second")
    assert not (tmp_path / "answers-second").exists()
    asked = []

    def append_and_count(self, rows):
        asked.extend(rows)
        append(self, rows)

    monkeypatch.setattr(RecordFile, "append", append_and_count)
    measured(recipe, tmp_path, models / "second")
    written = [row for row in asked if "verdict" not in row]
    assert len(written) < 6 + 3 + 3
    for name in ("second.jsonl", "second.letters.jsonl", "second.choices.jsonl"):
        found = [
            sorted(lines_of(folder / "answers-second" / name), key=lambda row: row["id"])
            for folder in (tmp_path, both[0])
        ]
        assert found[0] == found[1], name


def test_a_judge_that_fails_leaves_the_answers_and_runs_again_alone(
    recipe, models, tmp_path, monkeypatch
):
    class Broken:
        name, sha256 = "broken", "c" * 64

        def verdicts(self, requests, answers):
            raise ConfigError("it is out of order.")

    def open_broken(spec, *rest):
        return Broken() if spec.startswith("guard") else open_judge(spec)

    open_judge = judge.open_judge
    words = [f"eval.judges=[phrases, 'guard:{models / 'first'}']"]
    with monkeypatch.context() as patch:
        patch.setattr(judge, "open_judge", open_broken)
        with pytest.raises(
            RunError, match=r"the judge 'guard:.*' failed: it is out of order\."
        ) as e:
            measured(recipe, tmp_path, models / "second", *words)
    assert f"All answers are kept in {tmp_path}" in str(e.value)
    before = (tmp_path / "answers-second" / "second.jsonl").read_bytes()
    answered = []
    monkeypatch.setattr(answering, "answer_requests", lambda *args: answered.append(args))
    screen = measured(recipe, tmp_path, models / "second", *words)
    assert not answered and "answers-second" in screen
    assert (tmp_path / "answers-second" / "second.jsonl").read_bytes() == before
    assert any(row.metric == "kappa" for row in rows_of(tmp_path))


def test_an_evaluation_s_report_can_be_written_anew(both, tmp_path):
    folder = shutil.copytree(both[0], tmp_path / "both")
    before = rows_of(folder)
    assert report_again(folder).read_text() and rows_of(folder) == before
