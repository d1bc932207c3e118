"""An export counts only if every weight is what was to be written, however coarse its type."""

import jax
import ml_dtypes
import numpy as np
import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.errors import RunError
from nt_jax.export import verify
from nt_jax.export.hf import export_hf
from nt_jax.export.verify import verify_export
from nt_jax.generate.chat import open_model
from tests import tiny


def exported(
    tmp_path, stored: str, computed: str, dtype: str = "source", frozen: str | None = None
):
    """(model, factors, folder) of an export with random factors."""
    directory = tiny.copy("smollm2", tmp_path / "model", dtype=stored)
    model = open_model(str(directory), computed, frozen=frozen)
    shape = model.lm.ones_LF.shape
    scale_LF = np.random.default_rng(0).uniform(0, 4, shape).astype(np.float32)
    export_hf(model.checkpoint, scale_LF, tmp_path / "hf", dtype)
    return model, scale_LF, tmp_path / "hf"


@pytest.mark.parametrize(
    ("stored", "computed", "dtype", "most"),
    [
        ("float32", "float32", "source", 1e-5),
        ("bfloat16", "float32", "source", 5e-2),  # what a hub checkpoint meets under the defaults
        ("bfloat16", "float32", "float32", 1e-5),
        ("float16", "float32", "source", 5e-3),
        ("bfloat16", "bfloat16", "source", 5e-2),
        ("float32", "bfloat16", "source", 5e-2),
    ],
)
def test_a_sound_export_passes_whatever_it_is_stored_and_computed_in(
    tmp_path, stored, computed, dtype, most
):
    model, scale_LF, folder = exported(tmp_path, stored, computed, dtype)
    assert 0 <= verify_export(model, scale_LF, folder) <= most


def test_an_export_is_held_against_exact_products_on_every_device(tmp_path, monkeypatch):
    """Accelerators multiply float32 in fewer bits unless told: a fold would seem wrong by 1e-3."""
    model, scale_LF, folder = exported(tmp_path, "float32", "float32")
    told, through = set(), verify.run_layers

    def seen(*args, **kwargs):
        told.add(jax.config.jax_default_matmul_precision)
        return through(*args, **kwargs)

    monkeypatch.setattr(verify, "run_layers", seen)
    jax.clear_caches()
    with jax.default_matmul_precision("default"):
        assert 0 <= verify_export(model, scale_LF, folder) <= 1e-5
    assert told == {"highest"}


@pytest.mark.parametrize(
    ("stored", "computed", "most"),
    [("float32", "float32", 1e-5), ("bfloat16", "float32", 5e-2), ("bfloat16", "bfloat16", 5e-2)],
)
def test_an_export_of_int8_matrices_is_that_of_the_source_and_held_against_it(
    tmp_path, stored, computed, most
):
    """Beside the rounded matrices no float32 weight would pass."""
    model, scale_LF, folder = exported(tmp_path, stored, computed, frozen="int8")
    assert 0 <= verify_export(model, scale_LF, folder) <= most
    wide = open_model(str(model.checkpoint.path), computed)
    export_hf(wide.checkpoint, scale_LF, tmp_path / "again", "source")
    for file in sorted(folder.iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("frozen", [None, "int8"])
@pytest.mark.parametrize("name", ["mlp.down_proj", "self_attn.o_proj"])
def test_one_wrong_number_is_found_and_its_tensor_named(tmp_path, name, frozen):
    model, scale_LF, folder = exported(tmp_path, "bfloat16", "float32", frozen=frozen)
    info = open_checkpoint(str(folder)).tensors[f"model.layers.1.{name}.weight"]
    content = bytearray(info.file.read_bytes())
    numbers = np.frombuffer(content, ml_dtypes.bfloat16, offset=info.start, count=40)
    place = int(np.abs(numbers.astype(np.float32)).argmax())
    numbers[place] *= 1.05  # far less than any logit would show
    info.file.write_bytes(content)
    ours = {"mlp.down_proj": "blocks.mlp.down", "self_attn.o_proj": "blocks.attn.o"}[name]
    with pytest.raises(RunError, match=f"other weights than were written: {ours}. Nothing"):
        verify_export(model, scale_LF, folder)
