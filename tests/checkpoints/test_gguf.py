"""GGUF files read as the checkpoints they were converted from."""

import dataclasses
import struct

import gguf
import numpy as np
import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.gguf import rope_from_factors
from nt_jax.checkpoints.gguf_tokenizer import build_tokenizer
from nt_jax.errors import CheckpointError
from nt_jax.models.config import RopeConfig
from tests import tiny
from tests.checkpoints.gguf_blocks import DOWN, q4_1, q8_0, write_one_layer


def llama3_divisors(config) -> np.ndarray:
    """What llama.cpp's converter writes as rope_freqs, from transformers' own frequencies."""
    torch = pytest.importorskip("torch")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    base, head_dim = config.rope_parameters["rope_theta"], config.head_dim
    plain = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    return (plain / scaled).numpy()


# --- whole models --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_converted_checkpoint_is_the_checkpoint(tmp_path, family, kv_heads):
    directory = tiny.checkpoint(family, kv_heads=kv_heads)
    original = open_checkpoint(str(directory))
    extra = {}
    if family == "llama3":
        config = pytest.importorskip("transformers").AutoConfig.from_pretrained(directory)
        extra["rope_freqs__weight"] = llama3_divisors(config)
    path = tiny.write_gguf(directory, tmp_path / "m.gguf", **extra)
    converted = open_checkpoint(str(path))
    family_name = {"mistral": "llama"}.get(original.config.family, original.config.family)
    assert converted.config == dataclasses.replace(original.config, family=family_name)
    assert converted.directory is None and converted.path == path
    assert converted.tensors.keys() == original.tensors.keys()
    for name, info in original.tensors.items():
        assert converted.tensors[name].shape == info.shape
        np.testing.assert_array_equal(converted.read(name), original.read(name), err_msg=name)


def test_rope_factors_of_the_published_models_are_recognised():
    transformers = pytest.importorskip("transformers")
    original = open_checkpoint(str(tiny.checkpoint("llama2"))).config
    for factor, head_dim in ((8.0, 128), (32.0, 64)):  # LLaMA 3.1 8B; 3.2 1B
        rope = {
            "rope_type": "llama3", "rope_theta": 5e5, "factor": factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        }  # fmt: skip
        theirs = transformers.LlamaConfig(head_dim=head_dim, rope_parameters=rope)
        divisors = llama3_divisors(theirs)
        ours = dataclasses.replace(original, head_dim=head_dim, rope=RopeConfig(theta=5e5))
        expected = RopeConfig("llama3", 5e5, factor, 1.0, 4.0, 8192)
        assert rope_from_factors(divisors, ours) == expected
        assert rope_from_factors(divisors * 1.01, ours) is None
        assert rope_from_factors(divisors[1:], ours) is None
        assert rope_from_factors(np.ones_like(divisors), ours) == RopeConfig(theta=5e5)


# --- files that cannot be used -------------------------------------------------------------------


def error_of(path) -> str:
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(str(path))
    assert str(path) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"general.architecture": "gemma2"}, ["'gemma2' is not supported", "llama, qwen2, qwen3"]),
        ({"general.architecture": "qwen3moe"}, ["nearest: 'qwen3'"]),
        ({"llama.expert_count": 8}, ["'llama.expert_count' = 8 is unknown"]),
        ({"llama.logit_scale": 0.5}, ["'llama.logit_scale' = 0.5 is unknown"]),
        ({"llama.attention.sliding_window": 64}, ["sliding_window = 64"]),
        ({"llama.rope.dimension_count": 4}, ["rope.dimension_count' = 4", "head size"]),
        ({"llama.attention.value_length": 4}, ["attention.value_length' = 4"]),
        ({"llama.rope.scaling.type": "yarn"}, ["rope_type 'yarn'", "only default, linear"]),
        ({"llama.attention.head_count": None}, ["num_attention_heads"]),
        ({"split.count": 3}, ["one of 3 parts", "llama-gguf-split --merge"]),
    ],
)
def test_metadata_we_do_not_compute_is_refused_by_name(tmp_path, metadata, words):
    directory = tiny.checkpoint("llama2")
    architecture = metadata.pop("general.architecture", None)
    keep = {"llama.attention.key_length": 8} if "llama.rope.dimension_count" in metadata else {}
    path = tiny.write_gguf(directory, tmp_path / "m.gguf", metadata=metadata | keep)
    if architecture:
        data = path.read_bytes()
        old, new = (struct.pack("<Q", len(n)) + n for n in (b"llama", architecture.encode()))
        path.write_bytes(data.replace(old, new, 1))
    message = error_of(path)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("scaling", "factor"),
    [
        ({"scale_linear": 4.0}, 4.0),
        ({"scaling.factor": 4.0}, 4.0),
        ({"scaling.factor": 2.0, "scale_linear": 4.0}, 2.0),
        ({"scaling.type": "linear", "scale_linear": 4.0}, 4.0),
        ({"scaling.type": "none", "scaling.factor": 4.0}, None),
        ({"scaling.type": "none", "scale_linear": 4.0}, None),
        ({"scaling.type": "linear"}, None),
        ({"scaling.type": "linear", "scaling.factor": 0.0}, None),
        ({"scaling.factor": 1.0}, None),
    ],
)
def test_rotary_scaling_is_what_llama_cpp_reads(tmp_path, scaling, factor):
    metadata = {f"llama.rope.{name}": value for name, value in scaling.items()}
    path = tiny.write_gguf(tiny.checkpoint("llama2"), tmp_path / "m.gguf", metadata=metadata)
    expected = RopeConfig("linear", 10000.0, factor) if factor else RopeConfig(theta=10000.0)
    assert open_checkpoint(str(path)).config.rope == expected


def test_every_end_of_turn_token_ends_an_answer(tmp_path):
    metadata = {"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 2}
    path = tiny.write_gguf(tiny.checkpoint("llama2"), tmp_path / "m.gguf", metadata=metadata)
    assert open_checkpoint(str(path)).config.eos_ids == (2, 7)


def test_tensor_problems_are_all_in_one_error(tmp_path):
    changes = {
        "blk.0.ffn_up.weight": None,
        "blk.1.ffn_gate.weight": np.zeros((8, 32), np.float32),
        "blk.0.attn_q.bias": np.zeros(32, np.float32),
        "rope_freqs.weight": np.array([1, 2, 3, 4], np.float32),
    }
    changes = {name.replace(".", "__"): value for name, value in changes.items()}
    message = error_of(tiny.write_gguf(tiny.checkpoint("llama2"), tmp_path / "m.gguf", **changes))
    assert "has 4 problems" in message
    for words in (
        "layers.0.mlp.up_proj",
        "[8, 32]",
        "layers.0.self_attn.q_proj.bias",
        "rope_freqs",
    ):
        assert words in message


def test_a_storage_type_that_is_not_read_is_named(tmp_path):
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q2_K][1]
    write_one_layer(tmp_path / "m.gguf", "Q2_K", np.zeros((256, block), np.uint8))
    message = error_of(tmp_path / "m.gguf")
    assert f"'{DOWN}' is stored as Q2_K" in message and "Q4_K" in message


@pytest.mark.parametrize("keep", [3, 100, 5000, -40])
def test_a_truncated_file_says_so(tmp_path, keep):
    path = tiny.write_gguf(tiny.checkpoint("llama2"), tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    message = error_of(path)
    assert "cut short" in message and "Download it again" in message and "\n" not in message


def test_a_file_that_is_no_gguf_says_so(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"not a model at all, but long enough to be looked at")
    assert "not a readable GGUF file" in error_of(tmp_path / "m.gguf")


def test_nan_in_a_gguf_is_named(tmp_path):
    weight = np.full((48, 32), np.nan, np.float32)
    path = tiny.write_gguf(
        tiny.checkpoint("llama2"), tmp_path / "m.gguf", blk__1__ffn_up__weight=weight
    )
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight' contains NaN"):
        open_checkpoint(str(path)).read("model.layers.1.mlp.up_proj.weight")


# --- the real file -------------------------------------------------------------------------------


@pytest.fixture
def smollm2():
    return tiny.smollm2()


@tiny.needs_smollm2
def test_smollm2_config(smollm2):
    config = smollm2.config
    assert (config.layers, config.width, config.neurons, config.vocab_size) == (
        30,
        576,
        1536,
        49152,
    )
    assert (config.heads, config.kv_heads, config.head_dim, config.tied) == (9, 3, 64, True)
    assert (config.rms_eps, config.rope) == (1e-5, RopeConfig(theta=100000.0))
    assert (config.eos_ids, config.bos_id, config.pad_id) == ((2,), 1, 2)
    assert len(smollm2.tensors) == 272
    assert smollm2.tensors[DOWN].dtype == "Q4_1"
    assert build_tokenizer(smollm2.gguf.metadata, "here").get_vocab_size() == 49152


@tiny.needs_smollm2
def test_smollm2_weights_by_scalar_python(smollm2):
    for name, oracle, size in ((DOWN, q4_1, 20), ("model.embed_tokens.weight", q8_0, 34)):
        info = smollm2.tensors[name]
        raw = smollm2.path.read_bytes()[info.start : info.stop]
        blocks = [raw[i : i + size] for i in range(0, 64 * size, size)]
        expected = [value for block in blocks for value in oracle(block)]
        ours = smollm2.read(name).reshape(-1)[: len(expected)]
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)


@tiny.needs_smollm2
@pytest.mark.slow
def test_smollm2_equals_what_transformers_reads(smollm2):
    transformers = pytest.importorskip("transformers")
    path = smollm2.path
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    state = theirs.state_dict()
    for name in smollm2.tensors:
        np.testing.assert_array_equal(smollm2.read(name), state[name].float().numpy(), name)
