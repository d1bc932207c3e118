"""Models and attacks that say nothing about any neuron: no neuron is chosen, the cause is named."""

import json
import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax import cli
from nt_jax.attribution import signal
from nt_jax.errors import DataError
from tests import tiny
from tests.run import small

pytestmark = pytest.mark.xdist_group("run")


def changed(model, folder, change) -> str:
    """A recipe of the tiny model with its down projections changed."""
    copy = folder / "model"
    tiny.copy("smollm2", copy)
    tiny.edit_json(copy / "config.json", max_position_embeddings=1024)
    tensors = load_file(copy / "model.safetensors")
    for layer in range(tiny.LAYERS):
        change(tensors[f"model.layers.{layer}.mlp.down_proj.weight"])
    save_file(tensors, copy / "model.safetensors")
    recipe = folder / "recipe.yaml"
    recipe.write_text(f"model: {{source: {copy}}}\n")
    return recipe


def zero(down_DF: np.ndarray) -> None:
    down_DF[:] = 0


def huge(down_DF: np.ndarray) -> None:
    down_DF[0, 0] = 3e38


@pytest.mark.parametrize("score", ["integrated", "contrastive"])
@pytest.mark.parametrize(
    ("change", "words"), [(zero, "down_proj zero"), (huge, "not finite")], ids=["0", "3e38"]
)
def test_a_model_without_scores(score, change, words, model, tmp_path):
    more = small.DECISION if score == "contrastive" else ()
    config = small.settings(changed(model, tmp_path, change), tmp_path / "run", *more)
    with pytest.raises(DataError, match=rf"^attribution: .*{words}"):
        small.carry_on(config, until="select")
    assert not any((tmp_path / "run" / name).exists() for name in ("attribute", "select"))


def test_halves_that_do_not_agree_are_told_on_the_screen(finished, tmp_path, monkeypatch, capsys):
    """As `nt-jax attribute` prints it, once for each set; the run goes on."""
    folder = shutil.copytree(finished.folder, tmp_path / "run")
    for name in small.STAGES[1:]:
        shutil.rmtree(folder / name)
    monkeypatch.setattr(signal, "LOW", 1.01)  # no two halves share more than all
    monkeypatch.setattr(cli, "_enter", lambda: None)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["--config", str(finished.recipe), *small.SETTINGS, "--run-dir", str(folder)]
    words.append("attribution.examples_per_type=2")
    assert cli.main("attribute", words) == 0
    said = " ".join(capsys.readouterr().out.split())
    for name in ("safety", "utility"):
        pattern = (
            rf"warning two halves of the {name} examples share \d+% of their best 9 neurons "
            r"\(chance 9%\): other examples would choose other neurons\. Give more\."
        )
        assert len(re.findall(pattern, said)) == 1, said
    assert (folder / "select" / "DONE").is_file()


def test_templates_that_add_nothing(recipe, tmp_path):
    rows = tmp_path / "templates.jsonl"
    texts = {"bare": "{request}", "other": "Now: {request}", "third": "{request} Now!"}
    lines = [
        {"id": name, "text": text, "types": ["pretending"], "split": "train"}
        for name, text in texts.items()
    ]
    lines.append(lines[1] | {"id": "held out", "split": "validation", "text": "So: {request}"})
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = small.settings(recipe, tmp_path / "run", f"data.templates.source={rows}")
    said = r"template bare\) says nothing about any neuron.*leave that template out of data\.templ"
    with pytest.raises(DataError, match=said):
        small.carry_on(config, until="select")
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines if line["id"] != "bare"))
    small.carry_on(config, until="select")  # as advised
