"""No local path leaves with an export, whatever names one: the settings, the data, the base."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from nt_jax.config.load import load_config
from nt_jax.export.peft import without_place
from nt_jax.run.repeat import sources_on_hub
from tests.run import small
from tests.run.test_card import export

pytestmark = pytest.mark.xdist_group("run")
WRITTEN = ("README.md", "nt_jax_export.json", "adapter_config.json", "Modelfile")


def texts(folder: Path) -> str:
    """All that is written in words, with the metadata of binary files."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    said = [file.read_text() for file in files if file.name in WRITTEN]
    headers = [file.read_bytes()[:4096] for file in files if file.name not in WRITTEN]
    return "".join(said) + b"".join(headers).decode("latin-1")


def manifest_of(folder: Path) -> dict:
    return json.loads((folder / "nt_jax_export.json").read_text())


def test_factors_that_a_tuning_went_on_from_are_named_without_their_place(finished, tmp_path):
    place = {"neurons.source": "/home/someone/secret/factors.safetensors"}
    run = small.changed(finished.folder, tmp_path / "run", place)
    assert export(run, tmp_path / "out", "--format", "ia3") == 0
    manifest = manifest_of(tmp_path / "out")
    assert manifest["settings"]["neurons"]["source"] == "factors.safetensors"
    assert manifest["fill_in"] == ["model.source", "neurons.source"]
    assert "/home/someone" not in texts(tmp_path / "out")
    assert "put in model.source, neurons.source first" in texts(tmp_path / "out")


@pytest.mark.parametrize("base", ["./models/private", "models/private", "/srv/me/private"])
def test_a_local_base_is_named_by_its_last_part_and_it_is_said(
    finished, tmp_path, monkeypatch, capsys, base
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "private").mkdir(parents=True)
    words = ["--format", "hf,ia3,lora,gguf,gguf-lora,factors", "--base", base]
    assert export(finished.folder, tmp_path / "out", *words) == 0
    for place in ("models/", "srv/"):
        assert place not in texts(tmp_path / "out"), place
    fields = json.loads((tmp_path / "out" / "ia3" / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == "private"
    card = ModelCard.load(tmp_path / "out" / "ia3" / "README.md")
    assert card.data.base_model is None
    assert "private (the last part of a local name, as no hub id is known)" in card.text
    said = f"--base {base} is a local path, which is not written: it says private"
    assert said in capsys.readouterr().out
    assert manifest_of(tmp_path / "out" / "hf")["base"]["id"] is None


def test_what_a_base_is_called():
    assert without_place("owner/name") == "owner/name"
    assert without_place("Some model, 4 bits") == "Some model, 4 bits"
    for path in ("/a/b/c", "a/b/c", "../c", "~/c", "c/", "C:\\b\\c"):
        assert without_place(path) == "c"


def test_data_are_hub_ids_only_where_the_run_says_so(finished, tmp_path, monkeypatch):
    """Relative files look like hub ids from any folder but the run's own."""
    monkeypatch.chdir(tmp_path)
    data = {"data.harmful.source": "data/harmful.jsonl", "data.harmless.source": "owner/set:main"}
    for name, facts in (("known", {"on_hub": ["owner/set:main"]}), ("older", {"on_hub": None})):
        run = small.changed(finished.folder, tmp_path / name, data, **facts)
        assert export(run, tmp_path / f"{name}-out", "--format", "ia3") == 0
        assert "data/harmful" not in texts(tmp_path / f"{name}-out")
    card = ModelCard.load(tmp_path / "known-out" / "README.md")
    assert card.data.datasets == ["owner/set"]
    assert "harmful: own files, harmless: owner/set:main, attack templates: nt_jax's" in card.text
    manifest = manifest_of(tmp_path / "known-out")
    assert manifest["settings"]["data"]["harmless"]["source"] == "owner/set:main"
    assert manifest["settings"]["data"]["harmful"]["source"] == "harmful.jsonl"
    assert manifest["fill_in"] == ["data.harmful.source", "model.source"]
    older = ModelCard.load(tmp_path / "older-out" / "README.md")
    assert older.data.datasets is None and "place the run does not say" in older.text


def test_a_run_notes_which_of_its_data_are_on_the_hub(finished, tmp_path, monkeypatch):
    assert json.loads((finished.folder / "run.json").read_text())["on_hub"] == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "harmful.jsonl").write_text("")
    words = ["data.harmful.source=data/harmful.jsonl", "data.harmless.source=owner/set"]
    assert sources_on_hub(load_config(str(finished.recipe), words)) == ["owner/set"]


def test_a_system_prompt_is_left_out_of_the_settings(finished, tmp_path):
    said = "You are the assistant of a bank."
    run = small.changed(finished.folder, tmp_path / "run", {"data.system_prompt": said})
    assert export(run, tmp_path / "out", "--format", "ia3") == 0
    manifest = manifest_of(tmp_path / "out")
    assert "system_prompt" not in manifest["settings"]["data"] and said not in texts(
        tmp_path / "out"
    )
    assert manifest["fill_in"] == ["data.system_prompt", "model.source"]
