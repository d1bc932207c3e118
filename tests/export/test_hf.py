"""Exports: only folded bytes change, transformers computes the same, nothing half-written stays."""

import errno
import hashlib
import json
import os
import stat
from collections import namedtuple
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax import atomic
from nt_jax.checkpoints.checkpoint import load_weights, open_checkpoint
from nt_jax.checkpoints.tokenizer import encode_chat, load_tokenizer
from nt_jax.errors import CheckpointError, ConfigError, RunError
from nt_jax.export import files as export
from nt_jax.export import folder, hf
from nt_jax.export.hf import export_hf, save_model
from nt_jax.generate.chat import open_model
from nt_jax.mesh import make_mesh
from nt_jax.models.transformer import logits
from tests import tiny
from tests.export.test_adapters import factors_of

MESH = make_mesh(1, 1)
SHAPE = (tiny.LAYERS, tiny.NEURONS)
DOWN = "model.layers.{}.mlp.down_proj.weight"


def scale_of(seed: int = 0) -> np.ndarray:
    """Factors around 1, most of them exactly 1; the first layer is left alone."""
    rng = np.random.default_rng(seed)
    scale = np.where(rng.random(SHAPE) < 0.3, rng.uniform(0.0, 2.0, SHAPE), 1.0)
    scale[0] = 1.0
    return scale.astype(np.float32)


def tensors_in(directory) -> dict[str, np.ndarray]:
    files = sorted(directory.glob("*.safetensors"))
    return {name: array for file in files for name, array in load_file(file).items()}


def bytes_in(directory) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_factors_of_one_export_bit_identical_files(tmp_path, dtype, shards):
    source = tiny.checkpoint("qwen2", dtype=dtype, shards=shards)
    out = tmp_path / "out"
    report = export_hf(open_checkpoint(str(source)), np.ones(SHAPE, np.float32), out)
    assert bytes_in(out) == bytes_in(source)
    assert (report.changed, report.max_rounding) == ((), 0.0)
    assert report.out == out and report.tensors == len(tensors_in(source))
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in bytes_in(out).items()}
    assert report.sha256 == hashes


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_only_the_folded_bytes_change(tmp_path, dtype, shards):
    torch = pytest.importorskip("torch")
    source = tiny.checkpoint("llama2", dtype=dtype, shards=shards)
    checkpoint, scale = open_checkpoint(str(source)), scale_of()
    report = export_hf(checkpoint, scale, tmp_path / "out")
    assert report.changed == (DOWN.format(1),)

    before, after = bytes_in(source), bytes_in(tmp_path / "out")
    info = checkpoint.tensors[DOWN.format(1)]
    patched = bytearray(before[info.file.name])
    patched[info.start : info.stop] = after[info.file.name][info.start : info.stop]
    assert before | {info.file.name: bytes(patched)} == after

    weight = torch.tensor(tensors_in(source)[DOWN.format(1)].astype(np.float32))
    folded = (weight * torch.tensor(scale[1])).to(getattr(torch, dtype)).float().numpy()
    written = tensors_in(tmp_path / "out")[DOWN.format(1)].astype(np.float32)
    np.testing.assert_array_equal(written, folded)

    exact = weight.double().numpy() * scale[1].astype(np.float64)
    moved = np.abs(written - exact)[exact != 0] / np.abs(exact[exact != 0])
    assert report.max_rounding == pytest.approx(moved.max())
    bits = {"float32": 24, "bfloat16": 8, "float16": 11}[dtype]
    assert 2.0 ** -(bits + 2) < report.max_rounding <= 2.0**-bits * 1.01


@pytest.mark.parametrize("family", ["llama3", "smollm2", "qwen2", "qwen3", "mistral"])
def test_transformers_computes_from_the_export_what_we_compute_with_the_scale(tmp_path, family):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source, scale = str(tiny.checkpoint(family)), scale_of()
    export_hf(open_checkpoint(source), scale, tmp_path / "out")
    tokens = np.random.default_rng(0).integers(0, tiny.VOCAB, (2, 12))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    mask = jnp.ones(tokens.shape, bool)
    model = load_weights(source, "float32", MESH)
    ours = np.asarray(logits(model, jnp.asarray(tokens, jnp.int32), mask, jnp.asarray(scale)))
    plain = np.asarray(logits(model, jnp.asarray(tokens, jnp.int32), mask))
    top = np.abs(expected).max()
    assert np.abs(ours - expected).max() < 1e-5 * top
    assert np.abs(plain - expected).max() > 1e-2 * top  # the scale matters

    reread = load_weights(str(tmp_path / "out"), "float32", MESH)
    again = np.asarray(logits(reread, jnp.asarray(tokens, jnp.int32), mask))
    assert np.abs(again - expected).max() < 1e-5 * top


def test_float32_widens_every_tensor_in_shards(tmp_path):
    """Widening avoids the rounding of the fold; tied copies and old buffers are left out."""
    source = tiny.copy("smollm2", tmp_path / "m", dtype="bfloat16")
    tensors = load_file(source / "model.safetensors")
    kept = set(tensors)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    save_file(tensors, source / "model.safetensors")
    scale, out = scale_of(), tmp_path / "out"
    report = export_hf(open_checkpoint(str(source)), scale, out, dtype="float32", shard_bytes=30000)
    assert report.max_rounding < 2**-24 and report.tensors == len(kept)

    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert set(index["weight_map"]) == kept
    wide = tensors_in(out)
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in wide.values())
    for name, array in wide.items():
        factor = scale[1] if name == DOWN.format(1) else np.float32(1.0)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, tensors[name].astype(np.float32) * factor)
        assert name in load_file(out / index["weight_map"][name])
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"
    assert open_checkpoint(str(out)).config == open_checkpoint(str(source)).config


@pytest.mark.parametrize("family", ["llama2", "qwen3"])
def test_a_gguf_becomes_a_directory_that_transformers_loads(tmp_path, family):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = tiny.write_gguf(tiny.checkpoint(family), tmp_path / "m.gguf")
    checkpoint, scale, out = open_checkpoint(str(path)), scale_of(), tmp_path / "out"
    report = export_hf(checkpoint, scale, out, shard_bytes=30000)
    assert report.changed == (DOWN.format(1),)
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= bytes_in(out).keys()

    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert theirs.dtype == torch.float32 and theirs.generation_config.eos_token_id == 2
    state = theirs.state_dict()
    for name in checkpoint.tensors:
        factor = scale[1] if name == DOWN.format(1) else np.float32(1.0)
        np.testing.assert_array_equal(state[name].numpy(), checkpoint.read(name) * factor)

    tokenizer = load_tokenizer(open_checkpoint(str(out)))
    assert encode_chat(tokenizer, "Hi 12!") == encode_chat(load_tokenizer(checkpoint), "Hi 12!")
    fields = json.loads((out / "tokenizer_config.json").read_text())
    assert fields["tokenizer_class"] == "PreTrainedTokenizerFast"  # the name that 4 and 5 know
    assert fields["chat_template"] == tiny.CHAT_TEMPLATE


def test_other_copies_of_the_weights_are_left_behind(tmp_path):
    """A stale pytorch_model.bin beside the tuned shards would be the untuned model."""
    source = tiny.copy("llama2", tmp_path / "m")
    for name in ("pytorch_model.bin", "m.gguf", "other.safetensors", ".secret", "tf_model.h5"):
        (source / name).write_bytes(b"x")
    for name in ("adapter_model.safetensors", "adapter_config.json"):  # of another model
        (source / name).write_text('{"base_model_name_or_path": "other"}')
    (source / "pytorch_model.bin.index.json").write_text("{}")
    (source / "onnx").mkdir()
    (source / "README.md").write_text("licence: x")  # the card of the untuned model
    (source / "LICENSE").write_text("licence: x")
    (source / "LICENSE").chmod(0o444)
    export_hf(open_checkpoint(str(source)), scale_of(), tmp_path / "out")
    expected = bytes_in(tiny.checkpoint("llama2")).keys() | {"LICENSE"}
    assert bytes_in(tmp_path / "out").keys() == expected
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~mask


def elsewhere(tmp_path) -> Path:
    """A file that no model folder holds."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_text("secret")
    return tmp_path / "home" / "id_rsa"


@pytest.mark.parametrize("name", ["notes.txt", "LICENSE", "tokenizer.json", "model.safetensors"])
def test_a_link_out_of_the_models_folder_is_refused(tmp_path, name):
    source, secret = tiny.copy("llama2", tmp_path / "m"), elsewhere(tmp_path)
    if (source / name).exists():
        (source / name).rename(secret)
    (source / name).symlink_to(secret)
    with pytest.raises(CheckpointError, match=rf"{source / name} is a link to {secret}, outside"):
        export_hf(open_checkpoint(str(source)), scale_of(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    content = secret.read_bytes()
    (source / name).unlink()
    if name not in ("notes.txt", "LICENSE"):  # what the message advises
        (source / name).write_bytes(content)
    export_hf(open_checkpoint(str(source)), scale_of(), tmp_path / "out")


def test_links_within_the_folder_and_to_the_hub_caches_own_blobs_are_followed(tmp_path):
    cached = tmp_path / "models--a--b"
    source = tiny.copy("llama2", cached / "snapshots" / "0123abc")
    (cached / "blobs").mkdir()
    for number, file in enumerate(sorted(source.iterdir())):
        file.rename(cached / "blobs" / f"{number}")
        file.symlink_to(f"../../blobs/{number}")
    (source / "again.txt").symlink_to("config.json")
    export_hf(open_checkpoint(str(source)), np.ones(SHAPE, np.float32), tmp_path / "out")
    assert not any(file.is_symlink() for file in (tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "again.txt").read_bytes() == (source / "config.json").read_bytes()
    (source / "again.txt").unlink()
    (source / "again.txt").symlink_to(elsewhere(tmp_path))
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        export_hf(open_checkpoint(str(source)), scale_of(), tmp_path / "other")


# --- errors --------------------------------------------------------------------------------------


def test_factors_of_another_model_are_refused(tmp_path):
    checkpoint = open_checkpoint(str(tiny.checkpoint()))
    with pytest.raises(CheckpointError, match=r"\[3, 5\].*2 layers of 48 neurons"):
        export_hf(checkpoint, np.ones((3, 5), np.float32), tmp_path / "out")
    scale = np.ones(SHAPE, np.float32)
    scale[1, 7] = np.nan
    with pytest.raises(CheckpointError, match="layer 1, neuron 7 is not finite"):
        export_hf(checkpoint, scale, tmp_path / "out")
    with pytest.raises(ConfigError, match="'int8' is not one of source, float32"):
        export_hf(checkpoint, scale_of(), tmp_path / "out", dtype="int8")
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_never_overwritten(tmp_path):
    checkpoint, out = open_checkpoint(str(tiny.checkpoint())), tmp_path / "out"
    out.mkdir()
    export_hf(checkpoint, scale_of(), out)  # empty: nothing to lose
    before = bytes_in(out)
    with pytest.raises(CheckpointError, match=r"exists already\. Choose another name"):
        export_hf(checkpoint, np.ones(SHAPE, np.float32), out)
    assert bytes_in(out) == before
    with pytest.raises(CheckpointError, match="exists already"):
        export_hf(checkpoint, scale_of(), out / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json is a file, so .*new cannot be"):
        export_hf(checkpoint, scale_of(), out / "config.json" / "below" / "new")


def test_the_working_directory_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    for out in (Path("."), tmp_path / "here", tmp_path / "link"):
        with pytest.raises(CheckpointError, match="is the working directory or a disk of its own"):
            folder.check_free(out)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("made", [True, False])
def test_behind_a_link_the_export_lies_where_it_leads(tmp_path, made):
    (tmp_path / "link").symlink_to(tmp_path / "place")
    if made:
        (tmp_path / "place").mkdir()
    save_model(open_model(str(tiny.checkpoint())), factors_of(), tmp_path / "link")
    assert {path.name for path in tmp_path.iterdir()} == {"link", "place"}
    assert (tmp_path / "link").is_symlink() and (tmp_path / "place" / "config.json").is_file()


def test_a_spoilt_export_behind_a_link_is_taken_away(tmp_path, monkeypatch):
    def wrong(*rest):
        raise RunError("wrong")

    (tmp_path / "link").symlink_to(tmp_path / "place")
    monkeypatch.setattr(hf, "verify_export", wrong)
    with pytest.raises(RunError, match="wrong"):
        save_model(open_model(str(tiny.checkpoint())), factors_of(), tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_fold_that_overflows_names_the_tensor_and_the_way_out(tmp_path):
    checkpoint = open_checkpoint(str(tiny.checkpoint(dtype="float16")))
    scale = np.full(SHAPE, 1e6, np.float32)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.down.*float16.*dtype=float32"):
        export_hf(checkpoint, scale, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert export_hf(checkpoint, scale, tmp_path / "out", dtype="float32").max_rounding < 2**-23


@pytest.mark.parametrize("dtype", ["source", "float32"])
def test_a_disk_that_is_too_small_is_noticed_before_writing(tmp_path, monkeypatch, dtype):
    usage = namedtuple("usage", "total used free")(10, 5, 5)
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda path: usage)
    checkpoint = open_checkpoint(str(tiny.checkpoint()))
    with pytest.raises(RunError, match=r"needs 0\.00 GB, but only 0\.00 GB are free.*Free some"):
        export_hf(checkpoint, scale_of(), tmp_path / "out", dtype=dtype)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["source", "float32"])
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, monkeypatch, dtype):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    checkpoint = open_checkpoint(str(tiny.checkpoint()))
    with pytest.raises(RunError, match="no space left on the disk"):
        export_hf(checkpoint, scale_of(), tmp_path / "out", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(path, changes):
        assert [entry.name for entry in tmp_path.iterdir()] != ["out"]  # not yet under its name
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_ranges", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_hf(open_checkpoint(str(tiny.checkpoint())), scale_of(), tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").iterdir())


@tiny.needs_smollm2
def test_smollm2_exports_and_reads_back(tmp_path):
    checkpoint = tiny.smollm2()
    scale = np.ones((30, 1536), np.float32)
    scale[7, :5] = 1.25
    report = export_hf(checkpoint, scale, tmp_path / "out")
    assert (report.changed, report.tensors) == ((DOWN.format(7),), 272)
    again = open_checkpoint(str(tmp_path / "out"))
    assert again.config == checkpoint.config
    for name in ("model.embed_tokens.weight", DOWN.format(6), "model.norm.weight"):
        np.testing.assert_array_equal(again.read(name), checkpoint.read(name))
    expected = checkpoint.read(DOWN.format(7)) * scale[7]
    np.testing.assert_array_equal(again.read(DOWN.format(7)), expected)
    ids = encode_chat(load_tokenizer(again), "What is 2 + 2?")
    assert ids == encode_chat(load_tokenizer(checkpoint), "What is 2 + 2?")
