"""What an export says of itself is true: the strength, what was tuned, the rank, how to use it."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors import safe_open

from nt_jax import cli
from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.factors import FILE, FactorsFile, load_factors, read_factors, save_factors
from nt_jax.config.load import load_config
from nt_jax.run import kept, stages
from nt_jax.run.export import config_of, run_factors
from nt_jax.run.repeat import SECTIONS
from nt_jax.train.strength import at_strength, past_bounds
from tests import tiny
from tests.export.llama_cpp import Server
from tests.run import small
from tests.run.test_card import export

pytestmark = pytest.mark.xdist_group("run")
OF_THE_WAY = "of the way from untouched factors (0) to the learned ones (1)"


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "nt_jax_export.json").read_text())


def from_file(finished, path: Path, out: Path, *words: str) -> int:
    return cli.main(
        "export", ["--factors", str(path), "--model", str(finished.model), "--out", str(out),
                   "--format", "factors", *words]
    )  # fmt: skip


def said_in_metadata(folder: Path) -> str:
    with safe_open(folder / FILE, "np") as file:
        return file.metadata()["strength"]


# --- the untuned model ---------------------------------------------------------------------------


def test_the_untuned_model_is_called_untuned(finished, tmp_path):
    words = ["--strength", "0", "--format", "hf,gguf,factors", "--base", "someone/tiny"]
    assert export(finished.folder, tmp_path / "out", *words) == 0
    for kind in ("hf", "gguf", "factors"):
        card = ModelCard.load(tmp_path / "out" / kind / "README.md")
        assert "# tiny, untuned" in card.text and "not tuned: strength 0" in card.text
        assert not re.search("NeuronTune|refuse harmful|learned factors|Learned on", card.text)
        assert card.data.model_name == "tiny untuned" and card.data.base_model == "someone/tiny"
        assert "neurontune" not in card.data.tags and "safety" not in card.data.tags
        assert card.data.datasets is None and card.data.get("base_model_relation") is None
        manifest = manifest_of(tmp_path / "out" / kind)
        assert (manifest["strength"], manifest["neurons"], manifest["settings"]) == (0, 0, None)
        assert manifest["strength_means"] == "0, the untuned model"


# --- the strength --------------------------------------------------------------------------------


@pytest.fixture
def kept_share(finished, monkeypatch) -> float:
    """The run as if it had kept its last factors at a strength that it tried."""
    tried = (finished.folder / "train" / "strengths.jsonl").read_text().splitlines()
    share, found = json.loads(tried[0])["strength"], stages.best_state

    def best_state(config, selected, train):
        state = found(config, selected, train)
        neurons = run_neurons(selected)
        return dataclasses.replace(state, best_P=at_strength(neurons, state, share, config))

    def run_neurons(selected):
        return stages.load_neurons(selected / "neurons.csv")[0]

    monkeypatch.setattr(stages, "best_state", best_state)
    monkeypatch.setattr(kept, "best_state", best_state)
    return share


def test_the_kept_strength_is_named_and_gives_the_same_factors_again(
    finished, kept_share, tmp_path, monkeypatch
):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    checkpoint = open_checkpoint(str(finished.model))
    for name, words in (("kept", []), ("asked", ["--strength", str(kept_share)])):
        assert export(finished.folder, tmp_path / name, "--format", "factors", *words) == 0
    again = ["--strength", str(kept_share)]
    assert from_file(finished, tmp_path / "kept", tmp_path / "again", *again) == 0
    assert from_file(finished, tmp_path / "kept", tmp_path / "plain") == 0
    expected = run_factors(finished.folder)[1].theta_P
    for name in ("kept", "asked", "again", "plain"):
        folder = tmp_path / name
        np.testing.assert_array_equal(load_factors(folder, checkpoint).theta_P, expected)
        assert said_in_metadata(folder) == str(kept_share)
        assert manifest_of(folder)["strength"] == kept_share
        card = ModelCard.load(folder / "README.md")
        assert f"Strength: {kept_share} {OF_THE_WAY}, as " in card.text
        told = card.data.eval_results
        assert (told is not None) == (name in ("kept", "asked"))  # they are of these factors
    assert "as kept on validation answers" in (tmp_path / "kept" / "README.md").read_text()


def test_what_nothing_was_validated_of_is_as_learned(finished, kept_share, tmp_path):
    run = small.changed(finished.folder, tmp_path / "run", {"tune.validation_answers": 0})
    assert export(run, tmp_path / "out", "--format", "factors") == 0
    said = f"{kept_share} {OF_THE_WAY}, as learned"
    card, told = (tmp_path / "out" / "README.md").read_text(), manifest_of(tmp_path / "out")
    assert f"Strength: {said}" in card and "validation answers" not in json.dumps(told)


def test_a_strength_of_a_file_counts_as_in_its_run(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    half = ["--format", "factors", "--strength", "0.5"]
    assert export(finished.folder, tmp_path / "half", *half) == 0
    assert from_file(finished, tmp_path / "half", tmp_path / "whole", "--strength", "1") == 0
    checkpoint = open_checkpoint(str(finished.model))
    whole = load_factors(tmp_path / "whole", checkpoint).theta_P
    np.testing.assert_allclose(whole, run_factors(finished.folder, 1.0)[1].theta_P, atol=1e-6)
    assert said_in_metadata(tmp_path / "whole") == "1.0"
    assert export(finished.folder, tmp_path / "none", *half[:3], "0") == 0
    assert from_file(finished, tmp_path / "none", tmp_path / "out", "--strength", "1") == 2


def test_a_file_that_does_not_say_its_strength_makes_none_up(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    factors = run_factors(finished.folder)[1]
    found = FactorsFile(factors, tiny.LAYERS, tiny.NEURONS, "tiny", "", "far")
    save_factors(tmp_path / "f.safetensors", found)
    assert read_factors(tmp_path / "f.safetensors").share is None
    assert from_file(finished, tmp_path / "f.safetensors", tmp_path / "out") == 0
    assert manifest_of(tmp_path / "out")["strength"] is None
    assert "Strength: not known." in (tmp_path / "out" / "README.md").read_text()
    assert "learned with are not known here" in (tmp_path / "out" / "README.md").read_text()


def test_a_strength_of_the_settings_is_named(finished, tmp_path):
    run = small.changed(finished.folder, tmp_path / "run", {"export.strength": 0.5})
    assert export(run, tmp_path / "out", "--format", "factors") == 0
    assert f"0.5 {OF_THE_WAY}, as asked for" in (tmp_path / "out" / "README.md").read_text()
    assert manifest_of(tmp_path / "out")["strength"] == 0.5
    assert said_in_metadata(tmp_path / "out") == "0.5"


def test_how_many_factors_the_bounds_cut_is_said(finished, tmp_path, capsys):
    assert export(finished.folder, tmp_path / "far", "--strength", "1e9", "--format", "ia3") == 0
    config = config_of(
        finished.folder, json.loads((finished.folder / "run.json").read_text())["config"]
    )
    places = finished.folder / "select", finished.folder / "train"
    state, neurons = (
        stages.best_state(config.tune, *places),
        run_factors(finished.folder)[1].neurons,
    )
    past = past_bounds(neurons, state, 1e9, config.tune)
    theta_P = 1 + 1e9 * (np.asarray(state.average_P, np.float64) - 1)
    assert past == np.sum((theta_P < 0) | (theta_P > 4)) >= 20
    said = f"{past} of 24 factors are cut to the bounds 0 and 4"
    assert f"strength 1e+09: {said}" in capsys.readouterr().out
    assert f"as asked for; {said}." in (tmp_path / "far" / "README.md").read_text()
    assert export(finished.folder, tmp_path / "near", "--strength", "0.9", "--format", "ia3") == 0
    assert "cut to" not in capsys.readouterr().out + (tmp_path / "near" / "README.md").read_text()


def test_factors_of_a_file_that_turn_their_neurons_are_counted(
    finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    assert export(finished.folder, tmp_path / "f", "--format", "factors", "--strength", "1") == 0
    assert from_file(finished, tmp_path / "f", tmp_path / "out", "--strength", "1000") == 0
    theta_P = load_factors(tmp_path / "out", open_checkpoint(str(finished.model))).theta_P
    turned = int((theta_P < 0).sum())
    said = f"{turned} of 24 factors are below 0 (a file has no bounds)"
    assert turned and f"strength 1000: {said}" in capsys.readouterr().out
    assert said in (tmp_path / "out" / "README.md").read_text()


# --- the rank ------------------------------------------------------------------------------------


def test_a_cut_rank_says_what_it_lost_and_other_formats_keep_their_numbers(
    finished, tmp_path, capsys
):
    words = ["--rank", "2", "--format", "hf,ia3,lora,gguf-lora"]
    assert export(finished.folder, tmp_path / "out", *words) == 0
    (lost,) = {
        line.strip() for line in capsys.readouterr().out.splitlines() if "leaves out" in line
    }
    for kind in ("lora", "gguf-lora"):
        card = ModelCard.load(tmp_path / "out" / kind / "README.md")
        assert f"- Rank: {lost}." in card.text and card.data.eval_results is None
        assert "Not measured: the rank was cut" in card.text
        assert manifest_of(tmp_path / "out" / kind)["lost"] == lost
    for kind in ("hf", "ia3"):
        card = ModelCard.load(tmp_path / "out" / kind / "README.md")
        assert card.data.eval_results and "Not measured" not in card.text
        assert manifest_of(tmp_path / "out" / kind)["lost"] == ""
    assert export(finished.folder, tmp_path / "whole", "--rank", "99", "--format", "lora") == 0
    assert ModelCard.load(tmp_path / "whole" / "README.md").data.eval_results  # nothing is lost


# --- how to use it, and make it again ------------------------------------------------------------


@pytest.fixture(scope="module")
def several(finished, tmp_path_factory) -> Path:
    """Every format of one run, of a base that has no hub id."""
    out = tmp_path_factory.mktemp("used") / "out"
    words = ["--format", "hf,ia3,lora,gguf,gguf-lora,factors"]
    assert export(finished.folder, out, *words) == 0
    return out


def blocks(folder: Path, language: str) -> list[str]:
    """The fenced blocks of a card in that language."""
    text = (folder / "README.md").read_text()
    return re.findall(rf"```{language}\n(.*?)\n```", text, re.DOTALL)


@pytest.mark.parametrize("kind", ["hf", "ia3", "lora", "factors"])
def test_the_lines_of_a_card_run_as_they_stand(several, finished, tmp_path, monkeypatch, kind):
    if kind != "factors":
        pytest.importorskip("transformers")
        pytest.importorskip("torch")
    if kind in ("ia3", "lora"):
        pytest.importorskip("peft")
    shutil.copytree(several / kind, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    (lines,) = blocks(Path(), "python")
    placed = lines.replace('"tiny"  # put in the path of the base model', f'"{finished.model}"')
    placed = placed.replace('"tiny")  # put in the path of the base model', f'"{finished.model}")')
    assert (placed != lines) == (kind != "hf")  # the base, where there is one
    names: dict = {}
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    exec(compile(placed, "card", "exec"), names)
    if kind == "factors":
        assert Path("tuned/config.json").is_file()
    else:
        assert names["answer"].shape[1] > names["inputs"]["input_ids"].shape[1]


@pytest.mark.parametrize("kind", ["gguf", "gguf-lora"])
def test_the_servers_line_names_files_that_are_there(several, kind):
    (line,) = blocks(several / kind, "bash")[:1]
    program, *words = shlex.split(line, comments=True)
    options = dict(zip(words[::2], words[1::2], strict=True))
    assert program == "llama-server" and options.keys() <= {"-m", "--lora"}
    base = several / "gguf" / "model.gguf"
    model = base if options["-m"] == "BASE.gguf" else several / kind / options["-m"]
    lora = several / kind / options["--lora"] if "--lora" in options else None
    assert model.is_file() and (lora is None) == (kind == "gguf")
    assert len(Server(model, lora).greedy([1, 2, 3], 4)[0]) == 4


def test_the_settings_of_a_manifest_are_a_recipe(several, finished, tmp_path):
    command = blocks(several / "ia3", "bash")[0].splitlines()[0]
    command = command.replace("python -c", f"{shlex.quote(sys.executable)} -c")
    command = command.replace("> again.yaml", f"> {tmp_path / 'again.yaml'}")
    subprocess.run(command, shell=True, cwd=several / "ia3", check=True)
    manifest = manifest_of(several / "ia3")
    assert manifest["fill_in"] == ["model.source"]
    assert "put in model.source first" in (several / "ia3" / "README.md").read_text()
    facts = json.loads((finished.folder / "run.json").read_text())
    assert manifest["made_from"] == {"data": facts["hashes"]["data"]}
    again = load_config(str(tmp_path / "again.yaml"), [f"model.source={finished.model}"])
    was = config_of(finished.folder, facts["config"])
    for name in SECTIONS:
        assert getattr(again, name) == getattr(was, name), name
