"""Checkpoints load exactly, into leaves that lie as the rules say."""

import json
import tracemalloc

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax.checkpoints import keymap
from nt_jax.checkpoints.checkpoint import check_mesh, load_weights, open_checkpoint
from nt_jax.checkpoints.hf_config import config_from_hf
from nt_jax.errors import CheckpointError, ConfigError
from nt_jax.generate.chat import open_model
from nt_jax.mesh import make_mesh, sharding
from nt_jax.models.transformer import leaf_axes
from tests import tiny
from tests.checkpoints.files import DOWN, SINGLE, rewrite

MESH = make_mesh(1, 1)


def leaves_of(model) -> dict[str, jax.Array]:
    """Leaf path -> array, for every weight of a loaded model."""
    module, found = model.module(), {}
    for path in leaf_axes(model.config):
        node = module
        for name in path.split("."):
            node = getattr(node, name)
        found[path] = node[...]
    return found


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_leaf_holds_the_torch_weights(family):
    state = {k: v.numpy() for k, v in tiny.torch_model(family, kv_heads=1).state_dict().items()}
    model = load_weights(str(tiny.checkpoint(family, kv_heads=1)), "float32", MESH)
    leaves = leaves_of(model)
    for rule in keymap.rules_for(model.config):
        layers = [np.asarray(leaves[rule.ours])] if not rule.stacked else leaves[rule.ours]
        for layer, name in zip(layers, rule.hf_names(tiny.LAYERS), strict=True):
            back = keymap.to_hf(np.asarray(layer), rule, model.config.sizes)
            np.testing.assert_array_equal(back, state[name], err_msg=name)
    assert leaves["blocks.mlp.down"].shape == (tiny.LAYERS, tiny.NEURONS, tiny.WIDTH)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_stored_types_convert_as_torch_converts_them(stored, wanted):
    torch = pytest.importorskip("torch")
    directory = tiny.checkpoint("qwen2", dtype=stored, shards=True)
    weight = tiny.torch_model("qwen2").to(getattr(torch, stored)).state_dict()[DOWN]
    expected = weight.to(getattr(torch, wanted)).float().numpy()
    leaves = leaves_of(load_weights(str(directory), wanted, MESH))
    down = leaves["blocks.mlp.down"]
    assert {leaf.dtype.name for leaf in leaves.values()} == {wanted}
    np.testing.assert_array_equal(np.asarray(down[1]).astype(np.float32).T, expected)


def test_read_returns_the_stored_bytes():
    directory = tiny.checkpoint("smollm2", dtype="bfloat16", shards=True)
    checkpoint = open_checkpoint(str(directory))
    stored = {k: v for file in directory.glob("*.safetensors") for k, v in load_file(file).items()}
    assert checkpoint.tensors.keys() == stored.keys()
    assert checkpoint.directory == directory
    for name, expected in stored.items():
        read = checkpoint.read(name)
        assert read.dtype.name == "bfloat16"
        assert read.tobytes() == expected.tobytes(), name


def test_host_memory_peaks_at_the_model_and_one_tensor(tmp_path):
    """A CPU device adopts each stacked leaf, so the model is in memory once, not twice."""
    config = {"num_hidden_layers": 4, "hidden_size": 128, "intermediate_size": 512}
    fields = json.loads((tiny.checkpoint() / "config.json").read_text()) | config
    fields |= {"head_dim": 32, "vocab_size": 2000}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    shapes = keymap.hf_shapes(config_from_hf(fields, None, "here"))
    save_file({k: np.ones(shape, np.float32) for k, shape in shapes.items()}, tmp_path / SINGLE)
    total = sum(4 * np.prod(shape) for shape in shapes.values())
    largest_tensor = max(4 * np.prod(shape) for shape in shapes.values())
    tracemalloc.start()
    model = load_weights(str(tmp_path), "float32", MESH)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert model.config.layers == 4
    assert held > 0.95 * total  # adopted: had JAX copied, numpy would hold nothing by now
    assert peak < total + 1.5 * largest_tensor


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 (fake) devices")
def test_leaves_are_placed_as_the_rules_say():
    mesh = make_mesh(4, 2)
    model = load_weights(str(tiny.checkpoint("qwen2", kv_heads=2)), "float32", mesh)
    plain = leaves_of(load_weights(str(tiny.checkpoint("qwen2", kv_heads=2)), "float32", MESH))
    for path, leaf in leaves_of(model).items():
        assert leaf.sharding == sharding(mesh, leaf_axes(model.config)[path]), path
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(plain[path]))


@pytest.mark.skipif(jax.device_count() < 4, reason="needs 4 (fake) devices")
def test_a_mesh_that_does_not_divide_neurons_or_vocabulary_is_refused():
    """Heads never stand in the way: tests/models/test_heads_on_mesh.py."""
    config = open_checkpoint(str(tiny.checkpoint("llama2", kv_heads=2))).config
    check_mesh(config, make_mesh(1, 8).shape)
    wrong = r"mesh.model = 5 does not divide neurons = 48 of this model.*: 1, 2, 4, 8, 16\."
    with pytest.raises(ConfigError, match=wrong):
        load_weights(str(tiny.checkpoint("llama2", kv_heads=2)), "float32", make_mesh(1, 5))
    with pytest.raises(ConfigError, match=r"mesh.model = 3 does not divide vocab_size = 320"):
        check_mesh(config, {"model": 3})


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ConfigError, match="'int8' is not one of float32, bfloat16"):
        load_weights(str(tiny.checkpoint()), "int8", MESH)


@pytest.mark.parametrize("frozen", ["INT8", "int4", ""])
def test_an_unknown_type_of_frozen_matrices_is_refused(frozen):
    wrong = f"model.frozen = '{frozen}' is not int8. Write int8, or leave it out."
    for load in (
        lambda: load_weights(str(tiny.checkpoint()), "float32", MESH, frozen=frozen),
        lambda: open_model(str(tiny.checkpoint()), frozen=frozen),
    ):
        with pytest.raises(ConfigError) as caught:
            load()
        assert str(caught.value) == wrong


def test_rope_buffers_and_a_tied_head_are_no_extra_tensors(tmp_path):
    directory = tiny.copy("smollm2", tmp_path / "m")

    def add(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]

    rewrite(directory, add)
    assert "head" not in leaf_axes(load_weights(str(directory), "float32", MESH).config)

    rewrite(directory, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] * 2}))
    with pytest.raises(CheckpointError, match=r"differs from.*tie_word_embeddings"):
        load_weights(str(directory), "float32", MESH)

    rewrite(directory, lambda t: t.update({"lm_head.weight": t["lm_head.weight"].astype(np.int8)}))
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' is stored as I8"):
        open_checkpoint(str(directory))
    rewrite(directory, lambda t: t.update({"lm_head.weight": np.ones((3, 4), np.float32)}))
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' has shape \[3, 4\]"):
        open_checkpoint(str(directory))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_nan_and_infinite_weights_are_named(tmp_path, value, dtype):
    directory = tiny.copy("llama2", tmp_path / "m", dtype=dtype)

    def poison(tensors):
        tensors[DOWN] = tensors[DOWN].copy()
        tensors[DOWN][3, 5] = value

    rewrite(directory, poison)
    with pytest.raises(CheckpointError) as error:
        load_weights(str(directory), "float32", MESH)
    assert f"'{DOWN}' contains NaN or infinity" in str(error.value)
    assert str(directory) in str(error.value) and "Download it again" in str(error.value)
