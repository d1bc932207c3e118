"""config.json is read as transformers reads it, or refused by name."""

import json

import pytest

from nt_jax.checkpoints.hf_config import config_from_hf, config_to_hf, read_config
from nt_jax.errors import CheckpointError
from nt_jax.models.config import ModelConfig, RopeConfig
from tests import tiny

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 320,
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
}  # fmt: skip
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
QWEN3 = LLAMA | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
MISTRAL = LLAMA | {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


def config_of(fields: dict, generation: dict | None = None) -> ModelConfig:
    return config_from_hf(fields, generation, "here")


def problems_of(fields: dict) -> list[str]:
    return read_config(fields)[1]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_what_transformers_saves_is_read_as_transformers_reads_it(family):
    transformers = pytest.importorskip("transformers")
    directory = tiny.checkpoint(family)
    theirs = transformers.AutoConfig.from_pretrained(directory)
    ours = config_of(json.loads((directory / "config.json").read_text()))
    rope = theirs.rope_parameters
    assert ours == ModelConfig(
        family=theirs.model_type,
        vocab_size=theirs.vocab_size,
        width=theirs.hidden_size,
        neurons=theirs.intermediate_size,
        layers=theirs.num_hidden_layers,
        heads=theirs.num_attention_heads,
        kv_heads=theirs.num_key_value_heads,
        head_dim=getattr(theirs, "head_dim", None) or theirs.hidden_size // tiny.HEADS,
        rms_eps=theirs.rms_norm_eps,
        rope=RopeConfig(
            rope["rope_type"],
            rope["rope_theta"],
            rope.get("factor", 1.0),
            rope.get("low_freq_factor", 1.0),
            rope.get("high_freq_factor", 4.0),
            rope.get("original_max_position_embeddings", 0),
        ),
        qkv_bias=theirs.model_type == "qwen2",
        qk_norm=theirs.model_type == "qwen3",
        tied=theirs.tie_word_embeddings,
        max_positions=128,
        eos_ids=(2,),
        bos_id=1,
        pad_id=0,
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_to_hf_is_read_back_by_us_and_by_transformers(family):
    transformers = pytest.importorskip("transformers")
    directory = tiny.checkpoint(family)
    ours = config_of(json.loads((directory / "config.json").read_text()))
    written = config_to_hf(ours)
    assert config_of(written) == ours
    assert "rope_theta" in written and "rope_parameters" not in written  # transformers 4 reads it
    theirs = transformers.AutoConfig.for_model(**written)
    original = transformers.AutoConfig.from_pretrained(directory)
    for name in ("rope_parameters", "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings"):
        assert getattr(theirs, name) == getattr(original, name), name
    assert getattr(theirs, "sliding_window", None) is None


def test_both_spellings_of_rope_mean_the_same():
    old = LLAMA | {"rope_theta": 5e5, "rope_scaling": LLAMA3_ROPE}
    older = LLAMA | {"rope_theta": 5e5, "rope_scaling": {**LLAMA3_ROPE, "type": "llama3"}}
    new = LLAMA | {"rope_parameters": {**LLAMA3_ROPE, "rope_theta": 5e5}}
    both = old | new
    expected = RopeConfig("llama3", 5e5, 8.0, 1.0, 4.0, 64)
    assert [config_of(f).rope for f in (old, older, new, both)] == [expected] * 4
    linear = LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    assert config_of(linear).rope == RopeConfig("linear", 10000.0, 2.0)


def test_absent_fields_get_the_defaults_of_transformers():
    """Null key/value heads mean one per query head; absent ones depend on the family."""
    bare = {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "rms_norm_eps")}
    config = config_of(bare)
    assert (config.kv_heads, config.rms_eps, config.rope.theta) == (4, 1e-6, 10000.0)
    assert (config.bos_id, config.eos_ids, config.tied) == (1, (2,), False)
    mistral = MISTRAL | {"num_attention_heads": 16, "sliding_window": None}
    del mistral["num_key_value_heads"]
    assert config_of(mistral).kv_heads == 8
    assert config_of(mistral | {"num_key_value_heads": None}).kv_heads == 16
    assert config_of(QWEN3).head_dim == 128
    assert config_of(QWEN2).eos_ids == ()


def test_the_generation_config_decides_where_answers_end():
    fields = LLAMA | {"eos_token_id": 5, "pad_token_id": -1}
    assert config_of(fields, {"eos_token_id": [5, 7]}).eos_ids == (5, 7)
    assert config_of(fields, {"temperature": 0.6}).eos_ids == (5,)
    assert config_of(fields).pad_id is None


def test_notes_and_switched_off_unknowns_are_accepted():
    notes = {
        "torch_dtype": "bfloat16", "transformers_version": "4.44.0", "use_cache": True,
        "attention_dropout": 0.1, "pretraining_tp": 4, "is_llama_config": True,
        "transformers.js_config": {"kv_cache_dtype": {}}, "unsloth_version": "2025.1",
        "rope_interleaved": False, "use_mrope": False, "some_future_field": None,
    }  # fmt: skip
    assert config_of(LLAMA | notes) == config_of(LLAMA)
    window = {"use_sliding_window": False, "sliding_window": 32, "max_window_layers": 1}
    assert config_of(QWEN2 | window) == config_of(QWEN2)
    assert config_of(QWEN2 | window | {"use_sliding_window": True, "max_window_layers": 2})
    assert config_of(MISTRAL | {"sliding_window": 128})  # as long as the context: no window


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (LLAMA | {"hidden_act": "gelu"}, ["hidden_act", "'gelu'", "silu"]),
        (LLAMA | {"attention_bias": True}, ["attention_bias", "qwen2"]),
        (QWEN3 | {"attention_bias": True}, ["attention_bias"]),
        (LLAMA | {"mlp_bias": True}, ["mlp_bias"]),
        (LLAMA | {"quantization_config": {"bits": 4}}, ["quantization_config", "original"]),
        (LLAMA | {"auto_map": {"AutoModel": "x.Y"}}, ["auto_map", "never run"]),
        (LLAMA | {"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        (LLAMA | {"rope_interleaved": True}, ["rope_interleaved"]),
        (LLAMA | {"sliding_window": 64}, ["sliding_window", "64"]),
        (
            MISTRAL | {"max_position_embeddings": 32768},
            ["sliding_window", "4096", "absence"],
        ),
        (MISTRAL | {"sliding_window": 64}, ["sliding_window", "64", "null"]),
        (
            QWEN2 | {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
            ["sliding_window", "64"],
        ),
        (
            QWEN2 | {"layer_types": ["full_attention", "sliding_attention"]},
            ["layer_types", "sliding_attention"],
        ),
        (LLAMA | {"rope_scaling": {"type": "yarn", "factor": 4}}, ["'yarn'", "linear", "llama3"]),
        (LLAMA | {"rope_scaling": {"rope_type": "lama3"}}, ["'lama3'", "nearest: 'llama3'"]),
        (LLAMA | {"rope_scaling": {"type": "linear"}}, ["linear", "needs factor"]),
        (LLAMA | {"rope_scaling": {"type": "linear", "factor": -1}}, ["factor", "-1"]),
        (
            LLAMA | {"rope_scaling": {"type": "linear", "factor": 2, "beta": 1}},
            ["rope field 'beta'", "linear"],
        ),
        (
            LLAMA | {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}},
            ["rope_theta", "contradicts"],
        ),
        (
            LLAMA
            | {
                "rope_scaling": {"type": "linear", "factor": 2},
                "rope_parameters": {"rope_type": "linear", "factor": 4},
            },
            ["contradict"],
        ),
        (LLAMA | {"rope_parameters": {"full_attention": {}}}, ["layer type"]),
        (LLAMA | {"eos_token_id": "2"}, ["eos_token_id = '2'"]),
        (LLAMA | {"logit_scale": 0.5}, ["'logit_scale'", "0.5", "unknown", "delete it"]),
        (LLAMA | {"num_key_value_head": 2}, ["nearest: 'num_key_value_heads'"]),
        (LLAMA | {"num_key_value_heads": 3}, ["num_key_value_heads = 3", "multiple"]),
        (LLAMA | {"hidden_size": "32"}, ["hidden_size", "'32'", "whole number"]),
        (LLAMA | {"num_hidden_layers": 0}, ["num_hidden_layers", "positive"]),
        (LLAMA | {"rms_norm_eps": None, "tie_word_embeddings": "no"}, ["tie_word_embeddings"]),
        (LLAMA | {"hidden_size": 34}, ["hidden_size = 34", "num_attention_heads"]),
        (LLAMA | {"head_dim": 7}, ["head_dim = 7", "odd"]),
        (LLAMA | {"eos_token_id": 320}, ["eos_token_id", "320", "vocab_size"]),
        (LLAMA | {"architectures": ["LlamaForSequenceClassification"]}, ["LlamaForCausalLM"]),
        (
            {"model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"]},
            ["'qwen2_moe'", "nearest: 'qwen2'", "llama, mistral, qwen2, qwen3"],
        ),
        ({"architectures": ["GPT2LMHeadModel"]}, ["GPT2LMHeadModel", "choose"]),
        ({}, ["none given", "choose"]),
        ([], ["not a JSON object"]),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(fields, expected):
    with pytest.raises(CheckpointError) as error:
        config_of(fields)
    message = str(error.value)
    assert message.startswith("here: ") and "\n" not in message
    for words in expected:
        assert words in message


def test_a_missing_size_names_the_nearest_field():
    fields = {("hidden_sise" if k == "hidden_size" else k): v for k, v in LLAMA.items()}
    problems = problems_of(fields)
    assert any("'hidden_size' is missing" in p and "'hidden_sise'" in p for p in problems)
    assert any("'hidden_sise' = 32 is unknown" in p for p in problems)
    assert len(problems) == 2  # and no follow-up complaints about head sizes


def test_a_missing_vocabulary_is_not_all_of_it():
    fields = {
        key: value for key, value in LLAMA.items() if key not in ("vocab_size", "eos_token_id")
    }
    (problem,) = problems_of(fields | {"eos_token_id": None})
    assert "'vocab_size' is missing" in problem


def test_an_end_token_that_is_text_is_refused_though_another_file_has_a_number():
    """It would be exported, and transformers does not read it."""
    _, problems = read_config(LLAMA | {"eos_token_id": "2"}, {"eos_token_id": 2})
    assert any("eos_token_id = '2' is no token id" in problem for problem in problems)


def test_all_problems_are_in_one_error():
    fields = LLAMA | {"mlp_bias": True, "hidden_act": "relu", "vocab_size": None}
    with pytest.raises(CheckpointError) as error:
        config_of(fields)
    assert str(error.value).startswith("here has 3 problems:")
    for words in ("mlp_bias", "hidden_act", "vocab_size"):
        assert words in str(error.value)


def test_configs_are_hashable_and_frozen():
    config = config_of(LLAMA)
    assert {config: 1}[config_of(dict(LLAMA))] == 1
    with pytest.raises(AttributeError):
        config.width = 3
