"""Whole runs of other kinds: bfloat16 on a mesh, GGUF sources, the model's own refusals."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from nt_jax.data.training import read_records
from nt_jax.run import pipeline
from tests import tiny
from tests.run import small

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("run")]


def dtypes_of(folder) -> set[str]:
    with safe_open(folder / "export" / "hf" / "model.safetensors", "np") as file:
        return {str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
def test_every_family_comes_to_its_report(family, recipe, tmp_path):
    directory = tiny.copy(family, tmp_path / "model")
    tiny.edit_json(directory / "config.json", max_position_embeddings=1024)
    config = small.settings(recipe, tmp_path / "run", f"model.source={directory}")
    small.carry_on(config)
    assert (tmp_path / "run" / "report" / "DONE").is_file()


def test_bfloat16_on_a_mesh_first_order(recipe, tmp_path):
    directory = tiny.copy("smollm2", tmp_path / "model", dtype="bfloat16")
    tiny.edit_json(directory / "config.json", max_position_embeddings=1024)
    words = [
        f"model.source={directory}", "model.dtype=bfloat16", "mesh.data=2", "mesh.model=2",
        "tune.order=1", "tune.kl_weight=1", "attribution.weighting=standard",
    ]  # fmt: skip
    small.carry_on(small.settings(recipe, tmp_path / "run", *words))
    assert dtypes_of(tmp_path / "run") == {"BF16"}
    facts = json.loads((tmp_path / "run" / "export" / "export.json").read_text())
    assert 0 < facts["max_rounding"] <= 2**-8


def test_a_mesh_changes_the_factors_by_rounding_only(finished, tmp_path):
    """mesh.model only: mesh.data also rounds the shares of a batch, to cut it into equal parts."""
    small.carry_on(small.settings(finished.recipe, tmp_path / "run", "mesh.model=2"))
    shards = []
    for folder in (finished.folder, tmp_path / "run"):
        with safe_open(folder / "export" / "hf" / "model.safetensors", "np") as file:
            shards.append(file.get_tensor("model.layers.1.mlp.down_proj.weight"))
    np.testing.assert_allclose(shards[1], shards[0], rtol=2e-3, atol=1e-6)


def test_a_gguf_file_becomes_a_directory(recipe, model, tmp_path):
    path = tiny.write_gguf(model, tmp_path / "tiny.gguf", storage="F16")
    small.carry_on(small.settings(recipe, tmp_path / "run", f"model.source={path}"))
    assert dtypes_of(tmp_path / "run") == {"F32"}


def test_the_models_own_refusals_as_targets(recipe, tmp_path, monkeypatch):
    """A random model never refuses, so its judge is told to see refusals of harm."""
    words = ["data.safety_targets=self", "tune.attacked_harmless_fraction=0"]
    config = small.settings(recipe, tmp_path / "run", *words)
    open_judge = pipeline.open_judge
    harm = {row.request for row in read_records(config.data)["train"].harmful}

    def prepared(spec):
        judge = open_judge(spec)
        monkeypatch.setattr(judge, "verdicts", lambda asked, _: [text in harm for text in asked])
        return judge

    monkeypatch.setattr(pipeline, "open_judge", prepared)
    screen = small.carry_on(config)
    assert "16 answers of the model itself, 0 refusals dropped" in screen
