"""Logits, neurons and answers equal torch's; batching, padding and dtype do not change them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.data.batching import pad_left
from nt_jax.generate.engine import answer_prompts
from nt_jax.mesh import make_mesh
from nt_jax.models.layers import NeuronScale
from nt_jax.models.transformer import forward, logits, unembed
from tests import plain, tiny, torch_twin

NEW_TOKENS = 8
LENGTHS = (11, 3, 7, 1)


def prompts(lengths=LENGTHS, vocab: int = tiny.VOCAB, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(3, vocab, length).tolist() for length in lengths]


@functools.partial(jax.jit, static_argnames="read_at")
def logits_and_neurons(lm, token_BT, mask_BT, read_at=-1):
    model = lm.module()
    trace = forward(model, lm.config, token_BT, mask_BT, read_at=read_at)
    return unembed(model, trace.x_BTD, lm.config.rms_eps), trace.act_LBF


def relative(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@functools.cache
def loaded(family: str, kv_heads: int = 2, dtype: str = "float32"):
    return load_weights(str(tiny.checkpoint(family, kv_heads)), dtype, make_mesh())


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_left_padded_batches_equal_torch(family, kv_heads):
    lm, torch_model = loaded(family, kv_heads), torch_twin.load(family, kv_heads)
    token_BT, mask_BT = pad_left(prompts(), max(LENGTHS))
    theirs, their_act_LBTF = torch_twin.logits_and_neurons(torch_model, token_BT, mask_BT)
    ours, act_LBF = logits_and_neurons(lm, token_BT, mask_BT)
    assert relative(np.asarray(ours)[mask_BT], theirs[mask_BT]) < 1e-5
    for ours_BF, theirs_BF in zip(act_LBF, their_act_LBTF[:, :, -1], strict=True):
        assert relative(ours_BF, theirs_BF) < 1e-5
    options = {"max_new": NEW_TOKENS, "batch_size": 2}  # fewer slots than prompts
    answers = answer_prompts(lm, lm.ones_LF, prompts(), **options)
    expected_BM = torch_twin.answers(torch_model, token_BT, mask_BT, NEW_TOKENS)
    for answer, expected_M in zip(answers, expected_BM, strict=True):
        ends = np.flatnonzero(expected_M == 2)  # torch pads after its EOS
        assert answer == expected_M[: ends[0] if ends.size else None].tolist()


@pytest.mark.parametrize("read_at", [0, 4, 10])
def test_neurons_are_read_where_asked(read_at):
    lm, torch_model = loaded("llama2"), torch_twin.load("llama2")
    token_BT, mask_BT = pad_left(prompts((11, 11)), 11)
    _, their_act_LBTF = torch_twin.logits_and_neurons(torch_model, token_BT, mask_BT)
    _, act_LBF = logits_and_neurons(lm, token_BT, mask_BT, read_at=read_at)
    assert relative(act_LBF, their_act_LBTF[:, :, read_at]) < 1e-5


@pytest.mark.parametrize("family", ["llama2", "qwen2", "qwen3"])
def test_the_plain_oracle_computes_the_same_model(family):
    lm, prompt = loaded(family), prompts((9,))[0]
    theirs, their_act_LBTF = torch_twin.logits_and_neurons(
        torch_twin.load(family), np.array([prompt]), np.ones((1, 9), bool)
    )
    acts = []
    ours = plain.plain_logits(lm, prompt, patch=lambda layer, act: acts.append(act) or act)
    assert relative(ours, theirs[0]) < 1e-5
    assert relative(np.stack(acts), their_act_LBTF[:, 0]) < 1e-5


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_bfloat16_stays_near_float32(family):
    lm = loaded(family, dtype="bfloat16")
    token_BT, mask_BT = pad_left(prompts(), max(LENGTHS))
    exact, _ = torch_twin.logits_and_neurons(torch_twin.load(family), token_BT, mask_BT)
    rounded, act_LBF = logits_and_neurons(lm, token_BT, mask_BT)
    assert rounded.dtype == jnp.float32 and act_LBF.dtype == jnp.bfloat16
    # bound by bf16's 8 bits through two layers; single logits may cancel, so in the mean
    error, size = (np.asarray(rounded) - exact)[mask_BT], exact[mask_BT]
    assert np.sqrt((error**2).mean() / (size**2).mean()) < 2e-2


# --- batching ------------------------------------------------------------------------------------


def test_order_width_and_padding_do_not_change_a_row():
    lm, rows = loaded("llama3"), prompts()
    alone = [plain.padded_logits(lm, row) for row in rows]
    for order, width in (((0, 1, 2, 3), 11), ((3, 1, 0, 2), 16), ((2, 0, 3, 1), 32)):
        token_BT, mask_BT = pad_left([rows[row] for row in order], width, batch=6)
        batched = np.asarray(jax.jit(logits)(lm, token_BT, mask_BT))
        assert np.isfinite(batched).all()  # the two rows without any token too
        for place, row in enumerate(order):
            assert relative(batched[place][mask_BT[place]], alone[row]) < 1e-5


def test_what_stands_on_the_padding_does_not_matter():
    lm = loaded("qwen3")
    token_BT, mask_BT = pad_left(prompts(), 16)
    noise_BT = np.where(mask_BT, token_BT, prompts((16,), seed=1)[0]).astype(np.int32)
    one, other = (np.asarray(jax.jit(logits)(lm, t, mask_BT)) for t in (token_BT, noise_BT))
    np.testing.assert_array_equal(one[mask_BT], other[mask_BT])


def test_a_later_token_changes_nothing_before_it():
    lm, mask_BT = loaded("mistral"), np.ones((1, 8), bool)
    token_BT = np.array(prompts((8,)))
    changed_BT = token_BT.copy()
    changed_BT[0, 5] += 1
    one, other = (np.asarray(jax.jit(logits)(lm, t, mask_BT))[0] for t in (token_BT, changed_BT))
    np.testing.assert_array_equal(one[:5], other[:5])
    assert (np.abs(one[5:] - other[5:]).max(axis=-1) > 1e-3).all()


# --- the scale -----------------------------------------------------------------------------------


def test_the_scale_multiplies_what_enters_the_down_projection():
    torch = pytest.importorskip("torch")
    lm, torch_model = loaded("qwen2_tied"), torch_twin.load("qwen2_tied")
    scale_LF = np.random.default_rng(0).uniform(0, 3, lm.ones_LF.shape).astype(np.float32)
    token_BT, mask_BT = pad_left(prompts(), 11)
    with torch_twin.scaled(torch_model, torch.from_numpy(scale_LF)):
        theirs, _ = torch_twin.logits_and_neurons(torch_model, token_BT, mask_BT)
    ours = np.asarray(jax.jit(logits)(lm, token_BT, mask_BT, scale_LF))
    assert relative(ours[mask_BT], theirs[mask_BT]) < 1e-5
    unscaled = np.asarray(jax.jit(logits)(lm, token_BT, mask_BT))
    assert relative(unscaled[mask_BT], theirs[mask_BT]) > 0.1


def test_a_scale_of_ones_is_the_models_own():
    lm = loaded("llama2")
    token_BT, mask_BT = pad_left(prompts(), 11)
    jitted = jax.jit(logits)
    np.testing.assert_array_equal(
        jitted(lm, token_BT, mask_BT), jitted(lm, token_BT, mask_BT, lm.ones_LF)
    )
    assert lm.ones_LF.dtype == jnp.float32 and (np.asarray(lm.ones_LF) == 1).all()
    assert isinstance(lm.module().blocks.mlp.scale, NeuronScale)


# --- a real model --------------------------------------------------------------------------------


@pytest.mark.slow
@tiny.needs_smollm2
def test_smollm2_equals_torch():
    transformers = pytest.importorskip("transformers")
    path = tiny.smollm2_gguf()
    theirs_of = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    lm = load_weights(str(path), "float32", make_mesh())
    token_BT, mask_BT = pad_left(prompts((24, 15), vocab=40000), 24)
    theirs, their_act_LBTF = torch_twin.logits_and_neurons(theirs_of, token_BT, mask_BT)
    ours, act_LBF = logits_and_neurons(lm, token_BT, mask_BT)
    assert relative(np.asarray(ours)[mask_BT], theirs[mask_BT]) < 1e-4
    assert relative(act_LBF, their_act_LBTF[:, :, -1]) < 1e-4
