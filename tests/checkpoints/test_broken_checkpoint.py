"""A broken checkpoint gives one error: what, where and what to do."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax.checkpoints.checkpoint import open_checkpoint
from tests import tiny
from tests.checkpoints.files import DOWN, SINGLE, error_of, rewrite

INDEX = "model.safetensors.index.json"


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
