"""The losses equal torch's, and neither filler rows nor padding count."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.data.batching import pack
from nt_jax.mesh import make_mesh
from nt_jax.models.checkpoint import load_model
from nt_jax.train.objectives import (
    MARGIN,
    answer_logits,
    answer_mean,
    nll,
    nll_and_kl,
    nll_and_margin,
)
from tests import plain, tiny, torch_twin

PROMPTS = [[17, 30, 5, 9, 3], [8], [35, 11, 4]]
ANSWERS = [[21, 6, 33], [12, 2, 7, 9, 31], [25]]
BATCH = pack(PROMPTS, ANSWERS, prompt_width=7, answer_width=6, rows=5)  # two rows are filler


@functools.cache
def model():
    return load_model(str(tiny.checkpoint("qwen2")), "float32", make_mesh())


def some_scale(lm) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 2, lm.ones_LF.shape).astype(np.float32)


def torch_losses(scale_LF, decay: float):
    """(NLL, KL(base || scaled)): per row over its real answer tokens, then over the real rows."""
    import torch
    from torch.nn.functional import cross_entropy, kl_div

    twin, nlls, kls = torch_twin.load("qwen2"), [], []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        tokens = np.array([prompt + answer])
        base = torch_twin.logits(twin, tokens, np.ones_like(tokens)).detach()
        with torch_twin.scaled(twin, scale_LF):
            scaled = torch_twin.logits(twin, tokens, np.ones_like(tokens))
        base, scaled = (x[0, len(prompt) - 1 : -1] for x in (base, scaled))
        weight = torch.tensor([decay**place for place in range(len(answer))])
        nll_A = cross_entropy(scaled, torch.tensor(answer), reduction="none")
        log_base, log_scaled = base.log_softmax(-1), scaled.log_softmax(-1)
        kl_A = kl_div(log_scaled, log_base, log_target=True, reduction="none").sum(-1)
        nlls.append((nll_A * weight).sum() / weight.sum())
        kls.append((kl_A * weight).sum() / weight.sum())
    return torch.stack(nlls).mean(), torch.stack(kls).mean()


# --- against torch -------------------------------------------------------------------------------


@pytest.mark.parametrize(("decay", "remat"), [(1.0, False), (0.7, True)])
def test_losses_and_their_gradients_equal_torch(decay, remat):
    torch = pytest.importorskip("torch")
    lm = model()
    scale_LF = some_scale(lm)
    theirs_LF = torch.tensor(scale_LF, requires_grad=True)
    theirs = torch_losses(theirs_LF, decay)
    ours = functools.partial(nll_and_kl, decay=decay, remat=remat)
    slopes = jax.jit(jax.jacrev(ours, argnums=1))(lm, scale_LF, BATCH)
    np.testing.assert_allclose(
        jax.jit(ours)(lm, scale_LF, BATCH), [loss.item() for loss in theirs], rtol=1e-5
    )
    for loss, slope_LF in zip(theirs, slopes, strict=True):
        (expected_LF,) = torch.autograd.grad(loss, theirs_LF, retain_graph=True)
        expected_LF = expected_LF.numpy()
        assert np.abs(slope_LF - expected_LF).max() < 1e-5 * np.abs(expected_LF).max()


def test_the_loss_alone_is_the_same_loss():
    lm = model()
    alone = jax.jit(nll)(lm, some_scale(lm), BATCH)
    np.testing.assert_allclose(alone, jax.jit(nll_and_kl)(lm, some_scale(lm), BATCH)[0], rtol=1e-6)


def test_logits_are_those_that_predict_the_answer():
    lm = model()
    found_BAV = jax.jit(answer_logits)(lm, lm.ones_LF, BATCH)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected_TV = plain.padded_logits(lm, prompt + answer)[len(prompt) - 1 : -1]
        np.testing.assert_allclose(found_BAV[row, : len(answer)], expected_TV, atol=2e-5)


# --- KL ------------------------------------------------------------------------------------------


def test_kl_is_to_the_scale_of_ones_and_zero_there():
    lm = model()
    losses = jax.jit(nll_and_kl)
    slope_LF = jax.jit(jax.grad(lambda s: nll_and_kl(lm, s, BATCH)[1]))(lm.ones_LF)
    assert abs(losses(lm, lm.ones_LF, BATCH)[1]) < 1e-6 and np.abs(slope_LF).max() < 1e-6
    scaled = jax.tree.map(lambda _: jnp.asarray(some_scale(lm)), lm.scale)
    other = dataclasses.replace(lm, scale=scaled)  # its own scale is not the base
    assert abs(losses(other, lm.ones_LF, BATCH)[1]) < 1e-6
    assert losses(lm, some_scale(lm), BATCH)[1] > 0.01


# --- what must not count -------------------------------------------------------------------------


def test_filler_rows_weigh_nothing():
    lm = model()
    losses = jax.jit(nll_and_kl)
    assert BATCH.weight_B.tolist() == [1, 1, 1, 0, 0]
    expected = losses(lm, some_scale(lm), BATCH)
    tight = pack(PROMPTS, ANSWERS, prompt_width=7, answer_width=6)
    np.testing.assert_allclose(losses(lm, some_scale(lm), tight), expected, rtol=1e-5)
    filled = pack([*PROMPTS, [1, 2, 3]], [*ANSWERS, [4, 5]], prompt_width=7, answer_width=6, rows=5)
    filled = dataclasses.replace(filled, weight_B=BATCH.weight_B)
    np.testing.assert_allclose(losses(lm, some_scale(lm), filled), expected, rtol=1e-5)


def test_padding_does_not_count():
    lm = model()
    losses = jax.jit(nll_and_kl)
    expected = losses(lm, some_scale(lm), BATCH)
    wide = pack(PROMPTS, ANSWERS, prompt_width=16, answer_width=9)
    np.testing.assert_allclose(losses(lm, some_scale(lm), wide), expected, rtol=1e-5)
    noise_BA = np.where(BATCH.answer_mask_BA, BATCH.answer_BA, 44).astype(np.int32)
    noisy = dataclasses.replace(BATCH, answer_BA=noise_BA)
    np.testing.assert_array_equal(losses(lm, some_scale(lm), noisy), expected)


def test_each_answer_counts_once_however_long():
    value_BA = jnp.array([[1.0, 3, 100, 100], [5, 100, 100, 100], [100] * 4, [8, 8, 8, 100]])
    batch = pack([[1]] * 2, [[1, 1], [1]], answer_width=4, rows=4)
    assert answer_mean(value_BA, batch, 1.0) == (2 + 5) / 2
    assert answer_mean(value_BA, batch, 0.5) == ((1 + 3 / 2) / 1.5 + 5) / 2
    batch = dataclasses.replace(batch, weight_B=np.array([2, 1, 0, 0], np.float32))
    assert answer_mean(value_BA, batch, 1.0) == (2 * 2 + 5) / 3


def test_a_batch_of_filler_alone_is_zero_not_nan():
    lm = model()
    empty = pack([], [], prompt_width=7, answer_width=6, rows=5)
    value, slope_LF = jax.jit(jax.value_and_grad(nll, argnums=1))(lm, some_scale(lm), empty)
    assert value == 0 and (np.asarray(slope_LF) == 0).all()


def test_bfloat16_weights_give_a_float32_loss():
    lm = load_model(str(tiny.checkpoint("qwen2")), "bfloat16", make_mesh())
    value, slope_LF = jax.jit(jax.value_and_grad(nll, argnums=1))(lm, some_scale(lm), BATCH)
    assert value.dtype == slope_LF.dtype == jnp.float32
    np.testing.assert_allclose(value, nll(model(), some_scale(lm), BATCH), rtol=2e-2)


# --- margin over declined answers ----------------------------------------------------------------


def test_the_margin_is_counted_row_by_row():
    lm, decay = model(), 0.8
    declined = [[4, 4], [30], [7, 7, 7]]
    batch = pack(PROMPTS, ANSWERS, declined=declined, prompt_width=7, answer_width=6, rows=4)
    loss, margin = jax.jit(nll_and_margin)(lm, some_scale(lm), batch, decay=decay)
    np.testing.assert_allclose(loss, nll(lm, some_scale(lm), batch, decay=decay), rtol=1e-6)
    short = []
    for prompt, good, bad in zip(PROMPTS, ANSWERS, declined, strict=True):
        good_nll, bad_nll = (
            float(nll(lm, some_scale(lm), pack([prompt], [ids], answer_width=6), decay=decay))
            for ids in (good, bad)
        )
        short.append(np.logaddexp(0, 4 * (MARGIN - (bad_nll - good_nll))) / 4)
    np.testing.assert_allclose(margin, np.mean(short), rtol=1e-5)
    likely = dataclasses.replace(batch, declined_BA=batch.answer_BA,
                                 declined_mask_BA=batch.answer_mask_BA)  # fmt: skip
    assert nll_and_margin(lm, some_scale(lm), likely)[1] > MARGIN  # no margin at all
