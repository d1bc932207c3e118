"""What the benchmark of survival serves: quantised files that llama.cpp reads, int8, more turns."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import gguf as gguf_package
import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from nt_jax.baselines.adapters import merged
from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.config.schema import DataConfig
from nt_jax.data.prompts import messages_of
from nt_jax.data.training import evenly, read_records
from nt_jax.eval.prompts import TestPrompt
from nt_jax.export import factors as factors_format
from nt_jax.export import gguf
from nt_jax.export.folder import Wanted
from nt_jax.generate.chat import open_model
from nt_jax.models.leaves import get_leaf, leaf_names
from nt_jax.models.transformer import logits
from tests import tiny
from tests.export.llama_cpp import Server
from tests.export.test_adapters import factors_of, scale_of
from tests.export.test_gguf import PROMPT, checkpoint_with

pytest.importorskip("xllamacpp", reason="llama.cpp is in the extra `test`")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def made():
    """The functions of both files."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        names = runpy.run_path(str(BENCHMARKS / "quantise_gguf.py"))
        return names | runpy.run_path(str(BENCHMARKS / "survival.py"))
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q5_0])
def test_blocks_are_those_of_the_gguf_package(made, kind):
    values = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    theirs = gguf_package.quantize(values, kind)
    ours = made["packed"](values, kind, theirs.nbytes)
    back = (gguf_package.dequantize(x.reshape(theirs.shape), kind) for x in (ours, theirs))
    np.testing.assert_allclose(*back, atol=1e-6)


@pytest.mark.parametrize(("kind", "error"), [(Kind.Q4_K, 0.1), (Kind.Q6_K, 0.025)])
def test_k_blocks_hold_the_values_to_their_bits(made, kind, error):
    """Of normal numbers; the gguf package reads these blocks and cannot write them."""
    values = np.random.default_rng(1).normal(size=(3, 512)).astype(np.float32)
    block, size = gguf_package.GGML_QUANT_SIZES[kind]
    packed = made["packed"](values, kind, values.size // block * size)
    back = gguf_package.dequantize(packed.reshape(3, -1), kind)
    found = np.linalg.norm(back - values) / np.linalg.norm(values)
    assert error / 4 < found < error


def test_the_mixture_is_that_of_llama_quantize(made):
    """Of SmolLM2 (30 layers, width 576 is no multiple of 256, 1536 is) and of a wider model."""
    kind = made["_kind"]
    assert kind("token_embd.weight", 576, "Q4_K_M", False, 30) == Kind.Q8_0  # tied: it is the head
    assert kind("token_embd.weight", 4096, "Q4_K_M", True, 32) == Kind.Q4_K
    assert kind("output.weight", 4096, "Q4_K_M", True, 32) == Kind.Q6_K
    assert kind("blk.5.attn_q.weight", 576, "Q4_K_M", False, 30) == Kind.Q5_0
    down = [kind(f"blk.{n}.ffn_down.weight", 1536, "Q4_K_M", False, 30) for n in range(30)]
    more = {n for n, found in enumerate(down) if found == Kind.Q6_K}
    assert more == {0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29}
    assert {*down} == {Kind.Q6_K, Kind.Q4_K}
    assert kind("blk.0.attn_v.weight", 576, "Q8_0", False, 30) == Kind.Q8_0
    assert kind("blk.0.ffn_down.weight", 48, "Q8_0", False, 2) == Kind.F16


def test_llama_cpp_serves_a_quantised_file_near_the_tuned_model(made, tmp_path):
    source = checkpoint_with(tmp_path / "m", intermediate_size=64)
    model, factors = open_model(str(source), "float32"), factors_of((0, 5), (1, 7))
    gguf.write(model, factors, tmp_path / "gguf", Wanted("float32"))
    small = tmp_path / "small.gguf"
    made["quantise"](tmp_path / "gguf" / "model.gguf", small, "Q8_0")
    assert small.stat().st_size < 0.6 * (tmp_path / "gguf" / "model.gguf").stat().st_size
    kinds = {t.name: t.tensor_type for t in gguf_package.GGUFReader(small).tensors}
    assert kinds["blk.0.ffn_down.weight"] == Kind.Q8_0 and kinds["output_norm.weight"] == Kind.F32
    config = model.checkpoint.config
    scale_LF = factors.scale_LF(config.layers, config.neurons)
    name = "model.layers.0.mlp.down_proj.weight"
    exact, found = model.checkpoint.read(name) * scale_LF[0], open_checkpoint(str(small)).read(name)
    step = np.abs(exact.reshape(-1, 32)).max(axis=1, keepdims=True) / 127  # one scale a block
    apart = np.abs(found - exact).reshape(-1, 32)
    assert (apart <= 0.51 * step + 1e-7).all() and apart.any()
    reply = Server(small).post(
        "/completion", prompt=PROMPT, n_predict=4, temperature=0, n_probs=1, return_tokens=True,
        ignore_eos=True, cache_prompt=False,
    )  # fmt: skip
    first = reply["completion_probabilities"][0]  # of the first token that ends a letter
    ids = np.array([[*PROMPT, *reply["tokens"][: reply["tokens"].index(first["id"])]]], np.int32)
    row_V = np.asarray(logits(model.lm, ids, ids >= 0, scale_LF))[0, -1].astype(np.float64)
    log_prob_V = row_V - row_V.max() - np.log(np.exp(row_V - row_V.max()).sum())
    assert abs(log_prob_V[first["id"]] - first["logprob"]) < 0.05  # measured: 0.013


def test_int8_rounds_matrices_of_layers_and_nothing_else(made):
    model = open_model(str(tiny.checkpoint("qwen2")), "float32")
    scale_LF = scale_of(factors_of())
    rounded = made["int8"](model.lm, scale_LF)
    for layer in range(2):  # the file's own matrix [D, F], one scale an output
        weight = model.checkpoint.read(f"model.layers.{layer}.mlp.down_proj.weight")
        exact = np.float64(weight) * scale_LF[layer]
        step = np.abs(exact).max(axis=1, keepdims=True) / 127
        found = np.asarray(rounded.module().blocks.mlp.down[...], np.float64)[layer].T
        assert (np.abs(found - exact) <= 0.5001 * step).all() and (found != exact).any()
        np.testing.assert_allclose(found / step, np.rint(found / step), atol=1e-3)
        assert np.abs(np.rint(found / step)).max() == 127
    old, new = (dict(zip(leaf_names(lm), jax.tree.leaves(lm.frozen), strict=True))
                for lm in (model.lm, rounded))  # fmt: skip
    same = {name for name in old if (np.asarray(old[name]) == np.asarray(new[name])).all()}
    kinds = {name.rpartition(".")[2] for name in old.keys() - same}
    assert kinds == {"q", "k", "v", "o", "gate", "up", "down"} and "embed" in same


def test_two_turns_put_one_exchange_before_the_request(made):
    asked = TestPrompt("a", "1", "Hi?", "Hi?", False)
    messages = messages_of(made["after_a_turn"](asked).prompt)
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[-1]["content"] == "Hi?"


def test_the_other_lora_learns_answers_given_under_a_message_and_touches_no_neuron(made, tmp_path):
    source = tiny.copy("smollm2", tmp_path / "model")
    tiny.edit_json(source / "config.json", max_position_embeddings=1024)
    model, system = open_model(str(source), "float32"), "Be brief."
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
        params, losses = made["other_lora"](model, system, requests=8, epochs=30)
    new = merged(model.lm, made["OTHER"], params)
    old = {name: np.asarray(get_leaf(model.lm, name)) for name in leaf_names(model.lm)}
    changed = {n for n, leaf in old.items() if (np.asarray(get_leaf(new, n)) != leaf).any()}
    assert changed == {"blocks.attn.q", "blocks.attn.v"}

    # What it was to learn: what the untuned model says under the message, asked without it.
    train = read_records(DataConfig())["train"].harmless
    asked = [row.prompt for row in evenly(train, 8)]
    rows = [
        (model.encode(prompt), said)
        for prompt, said in zip(asked, model.under(system).answer(asked, 32), strict=True)
        if said
    ]

    def nats(lm) -> float:
        """Of a token of these answers, in the mean."""
        found = []
        for prompt, said in rows:
            ids = np.array([[*prompt, *said]], np.int32)
            row_TV = np.float64(logits(lm, ids, ids >= 0, lm.ones_LF)[0, len(prompt) - 1 : -1])
            top_T1 = row_TV.max(axis=-1, keepdims=True)
            norm_T = np.log(np.exp(row_TV - top_T1).sum(axis=-1)) + top_T1[:, 0]
            found.append(np.mean(norm_T - row_TV[np.arange(len(said)), said]))
        return float(np.mean(found))

    assert nats(new) < 0.95 * nats(model.lm)
    assert losses["loss_before"] == pytest.approx(nats(model.lm), rel=0.05)


def test_the_script_prints_counts_of_every_kind(tmp_path):
    source = tiny.copy("smollm2", tmp_path / "model")
    tiny.edit_json(source / "config.json", max_position_embeddings=2048)
    factors_format.write(open_model(str(source)), factors_of(), tmp_path / "factors", Wanted())
    words = ["--model", str(source), "--factors", str(tmp_path / "factors"), "--json",
             "--sets", "demo_direct", "--limit", "2", "--tokens", "3",
             "--kinds", "plain,Q8_0,two_turns"]  # fmt: skip
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "survival.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["refused"].keys() == {"plain", "Q8_0", "two_turns"}
    for kinds in found["refused"].values():
        for name in ("base", "tuned"):
            assert kinds["demo_direct"][name]["of"] == 2
