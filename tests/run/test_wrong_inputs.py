"""Wrong inputs through the command line: exit code 2, plain lines, no traceback, nothing behind."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax import cli
from nt_jax.eval import multiple_choice
from nt_jax.rundir import RunDirectory
from tests import tiny
from tests.run import small


@pytest.fixture(autouse=True)
def same_process(monkeypatch):
    """The command line must not change environment and logging of the test process."""
    monkeypatch.setattr(cli, "_enter", lambda: None)


DOWN, EMBED = "model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"


def _truncate(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64])


def _change(model: Path, change) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors")


def _beyond(letter: str):
    """Give a letter a token id that the model has no row for."""

    def change(model: Path) -> None:
        tokenizer = json.loads((model / "tokenizer.json").read_text())
        tokenizer["model"]["vocab"][letter] = 400
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))

    return change


def _nan(tensors: dict) -> None:
    tensors[DOWN][0, 0] = np.nan


BROKEN_MODELS = {
    "truncated": (_truncate, ("model.safetensors", "again")),
    "missing tensor": (lambda m: _change(m, lambda t: t.pop(DOWN)), (DOWN,)),
    "wrong shape": (
        lambda m: _change(m, lambda t: t.update({DOWN: np.ascontiguousarray(t[DOWN][:, :-1])})),
        (DOWN,),
    ),
    "NaN": (lambda m: _change(m, _nan), (DOWN, "NaN")),
    "a head that is not the embedding": (
        lambda m: _change(m, lambda t: t.update({"lm_head.weight": t[EMBED] * 2})),
        ("differs from 'model.embed_tokens.weight'. Set tie_word_embeddings to false",),
    ),
    "rope": (
        lambda m: tiny.edit_json(
            m / "config.json", rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}
        ),
        ("spiral", "default"),
    ),
    "no config": (lambda m: (m / "config.json").unlink(), ("config.json",)),
    "no template": (lambda m: (m / "chat_template.jinja").unlink(), ("no chat template",)),
    "a template that is a pointer": (
        lambda m: (m / "chat_template.jinja").write_text("version https://git-lfs.github.com/"),
        ("writes the same prompt whatever is asked", "chat_template.jinja"),
    ),
    "an empty template": (
        lambda m: (m / "chat_template.jinja").write_text(""),
        ("writes the same prompt whatever is asked",),
    ),
    "another tokenizer": (_beyond("e"), ("the text 'Hello' has the token id 400 ('e')", "320")),
    "every token ends an answer": (
        lambda m: [
            tiny.edit_json(m / name, eos_token_id=list(range(tiny.VOCAB)))
            for name in ("config.json", "generation_config.json")
        ],
        ("eos_token_id of generation_config.json names all 320 tokens", "Keep the id of the token"),
    ),
    "another end of answers": (
        lambda m: [
            tiny.edit_json(m / name, eos_token_id=5)
            for name in ("config.json", "generation_config.json")
        ],
        ("answers end with <|im_end|> (2), but generation stops at 5",),
    ),
    "a link out of the folder": (
        lambda m: (m / "notes.txt").symlink_to(__file__),
        (f"notes.txt is a link to {__file__}, outside the model's folder", "take the link away"),
    ),
}
# What the message advises, where it is not to put the model's own files back.
ADVISED = {
    "another end of answers": lambda m: tiny.edit_json(
        m / "generation_config.json", eos_token_id=[5, 2]
    ),
    "a link out of the folder": lambda m: (m / "notes.txt").unlink(),
}


def run(capsys, folder: Path, *words: str, foreseen: bool = True) -> str:
    """What the command printed as its error; the run directory must stay absent or empty.

    `foreseen`: --dry-run refuses the same in the same words.
    """
    asked = [*small.SETTINGS, *words, "--run-dir", str(folder)]
    capsys.readouterr()  # what making the tiny model printed
    planned = cli.main("train", [*asked, "--dry-run"]), capsys.readouterr().err
    code, error = cli.main("train", asked), capsys.readouterr().err
    assert planned == ((code, error) if foreseen else (0, ""))
    assert code == 2
    assert "Traceback" not in error
    assert all(line.startswith("nt_jax: ") for line in error.splitlines())
    stages = [path for path in folder.glob("*") if path.is_dir()] if folder.exists() else []
    assert stages == []
    return error


@pytest.mark.parametrize("name", BROKEN_MODELS)
def test_broken_models(name, tmp_path, capsys):
    damage, expected = BROKEN_MODELS[name]
    model = tiny.copy("smollm2", tmp_path / "model")
    tiny.edit_json(model / "config.json", max_position_embeddings=1024)
    damage(model)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: {{source: {model}}}\n")
    read = name != "NaN"  # every weight is read by the run alone
    error = run(capsys, tmp_path / "run", "--config", str(recipe), foreseen=read)
    assert all(words in error for words in expected), error
    assert len(error.splitlines()) <= 2
    if name in ADVISED:
        ADVISED[name](model)
        assert cli.main("train", ["--config", str(recipe), *small.SETTINGS, "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], ("rows.jsonl",)),
        ([{"request": "Hello?"}, {"request": ""}], ("rows.jsonl:2", "request")),
        ([{"colour": "red"}], ("rows.jsonl", "colour")),
    ],
    ids=["empty", "a row without a field", "unknown columns"],
)
def test_broken_data(lines, expected, recipe, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    error = run(capsys, tmp_path / "run", "--config", str(recipe), f"data.harmless.source={rows}")
    assert all(words in error for words in expected), error


def test_requests_without_refusals_are_no_refusals_given(recipe, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"request": "Do harm {n}."}}\n' for n in range(30)))
    words = [f"data.harmful.source={rows}", "data.harmful.limit=30", "data.safety_targets=given"]
    error = run(capsys, tmp_path / "run", "--config", str(recipe), *words)
    assert "no training row of data.harmful has a refusal" in error


def test_a_run_directory_that_is_a_file_or_in_use(recipe, tmp_path, capsys):
    words, folder = ["--config", str(recipe)], tmp_path / "run"
    with RunDirectory(folder):
        assert "in use by process" in run(capsys, folder, *words)
    (tmp_path / "file").write_text("")
    assert "is a file" in run(capsys, tmp_path / "file", *words)


def test_letters_that_are_no_tokens(recipe, tmp_path, capsys, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    question = {"question": "1?", "choices": ["1", "2"], "answer": 0}
    rows.write_text(json.dumps(question) + "\n")
    extra = f"eval.extra={{mine: {{source: {rows}, kind: choice, metrics: [letter]}}}}"
    monkeypatch.setattr(multiple_choice, "ANSWER", "")  # " A" is then two tokens, or one of " "
    monkeypatch.setattr(multiple_choice, "LETTERS", "AA")
    words = ["--config", str(recipe), extra, "eval.datasets=[demo_direct, mine]"]
    assert "metrics: [generate]" in run(capsys, tmp_path / "run", *words)


def test_a_prompt_longer_than_the_context(recipe, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    long = [{"request": f"What is {n} and " + "more " * 400 + "?"} for n in range(40)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in long))
    error = run(
        capsys,
        tmp_path / "run",
        *("--config", str(recipe), f"data.harmless.source={rows}", "data.harmless.limit=40"),
    )
    assert "1024" in error and "tokens" in error


def test_a_test_prompt_longer_than_the_context_is_named_before_tuning(recipe, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    long = [{"request": f"What is {n}?" + " more" * 400 * n} for n in range(3)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in long))
    extra = f"eval.extra={{mine: {{source: {rows}, kind: harmless}}}}"
    words = ["--config", str(recipe), extra, "eval.datasets=[demo_direct, mine]"]
    error = run(capsys, tmp_path / "run", *words)
    assert "test set mine, row" in error and "eval.max_new_tokens" in error


def test_a_scorer_with_too_short_a_context_is_told_before_any_work(recipe, tmp_path, capsys):
    scorer = tiny.copy("smollm2", tmp_path / "scorer")
    tiny.edit_json(scorer / "config.json", max_position_embeddings=8)
    error = run(capsys, tmp_path / "run", "--config", str(recipe), f"eval.scorer={scorer}")
    assert "eval.scorer" in error and "context leaves" in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["neurons.saftey=2000"], "did you mean 'neurons.safety'"),
        (["neurons.safety=100000"], "more than"),
        (["model.source=wheel:not_there"], "pip install"),
        (["mesh.data=9"], "needs 9 devices, but this machine shows 8"),
        (["mesh.model=5"], "mesh.model = 5 does not divide neurons = 48"),
        (["attribution.attack_types=[emotion]", "attribution.examples_per_type=99"], "emotion"),
        (
            ["attribution.attack_selection=false", "attribution.examples_per_type=99"],
            "Add some, or drop the type from attribution.attack_types.\n",
        ),
        (["data.utility_targets=given"], "no harmless training row has an answer"),
        (["data.attacks=records"], "0 requests inside 0 attacks of its own"),
        (["data.harmful.limit=1", "data.harmless.limit=1"], "needs at least 2"),
        (["eval.judges=[classifier:./nowhere]"], "there is no directory"),
        (["eval.judges=[guard:./nowhere]"], "nowhere"),
        (["eval.scorer=./nowhere"], "nowhere"),
        (["attribution.score=nowhere:f"], "cannot be imported"),
        (["eval.sources.demo_direct=nowhere.csv"], "nowhere.csv: no such file"),
        (["tune.outer=regression"], "tune.metric_requests"),
        (['tune.opening="  "'], "tune.opening = '  ' (command line): must not be empty"),
    ],
)
def test_wrong_settings(words, expected, recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    there = "needs 9 devices" not in expected  # which another machine may have: a warning
    error = run(capsys, folder, "--config", str(recipe), *words, foreseen=there)
    assert expected in error
    assert not folder.exists()


def test_dry_run_says_what_would_happen_and_writes_nothing(recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    code = cli.main(
        "train", ["--config", str(recipe), *small.SETTINGS, "--run-dir", str(folder), "--dry-run"]
    )
    said = capsys.readouterr().out
    assert code == 0
    assert not folder.exists()
    for words in ("memory", "24 of", "M parameters", "safety: 14", "dry run", "attacks for train"):
        assert words in said


@pytest.mark.parametrize(
    "word",
    ["data.harmful.source=nowhere.csv", "eval.extra={own: {source: nowhere.csv, kind: harmful}}"],
)
def test_dry_run_opens_every_file(word, recipe, tmp_path, capsys):
    words = [*small.SETTINGS, word, *(["eval.datasets=[own]"] if "own" in word else [])]
    code = cli.main(
        "train", ["--config", str(recipe), *words, "--run-dir", str(tmp_path / "run"), "--dry-run"]
    )
    assert code == 2 and "nowhere.csv: no such file" in capsys.readouterr().err
