"""The losses equal torch's, and neither filler rows nor padding count."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.data.packing import PADDING, Row, Shape, fill, half, pack_alone, pack_rows, shape_of
from nt_jax.mesh import make_mesh
from nt_jax.models.transformer import unembed
from nt_jax.train.objectives import (
    MARGIN,
    answer_means,
    nll,
    nll_and_kl,
    nll_and_margin,
    over_stretches,
    residual_at,
    row_sum,
    target_states,
)
from tests import plain, tiny, torch_twin

PROMPTS = [[17, 30, 5, 9, 3], [8], [35, 11, 4]]
ANSWERS = [[21, 6, 33], [12, 2, 7, 9, 31], [25]]
ROWS = [Row(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
SHAPE = Shape(stretches=1, side=2, length=18, targets=12, rows=4)


def first(batch):
    """The first stretch, as the losses take it."""
    return jax.tree.map(lambda leaf: leaf[0], batch)


BATCH = first(pack_rows(ROWS, SHAPE))  # one sequence and one row are filler


@functools.cache
def model():
    return load_weights(str(tiny.checkpoint("qwen2")), "float32", make_mesh())


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


@pytest.mark.parametrize("below", [0, 1])
def test_logits_are_those_that_predict_the_answer(below):
    """Rows that share a sequence do not see each other; lower layers may run by themselves."""
    lm = model()
    assert lm.config.layers > 1
    batch = pack_rows(ROWS, SHAPE)
    batch = first(dataclasses.replace(batch, x_BTD=residual_at(lm, batch, below)))
    upper = lm.above(below)
    at_targets = lambda lm, batch: unembed(*target_states(lm, lm.ones_LF, batch), 1e-6)  # noqa: E731
    assert lm.config.rms_eps == 1e-6
    found_BQV = np.asarray(jax.jit(at_targets)(upper, batch))
    tokens = {int(batch.answer_BQ[0, q]) for q in range(SHAPE.targets)}
    assert tokens == {0, 2, 4, PADDING}  # all three share the first sequence
    order = [ROWS[number] for number in (0, 1, 2)]
    order.sort(key=lambda row: -row.tokens)
    for place, row in enumerate(order):
        mine_BQV = found_BQV[0][batch.answer_BQ[0] == 2 * place]
        expected_TV = plain.padded_logits(lm, row.prompt + row.answer)[len(row.prompt) - 1 : -1]
        np.testing.assert_allclose(mine_BQV, expected_TV, atol=2e-5)


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


def test_neither_filler_nor_company_counts():
    lm = model()
    losses = jax.jit(nll_and_kl)
    expected = losses(lm, some_scale(lm), BATCH)
    alone = first(pack_alone(ROWS, Shape(1, 4, 12, 7, 1)))
    np.testing.assert_allclose(losses(lm, some_scale(lm), alone), expected, rtol=1e-5)
    noise_BT = np.where(BATCH.part_BT == PADDING, 44, BATCH.token_BT).astype(np.int32)
    noise_BQ = np.where(BATCH.answer_BQ == PADDING, 41, BATCH.target_BQ).astype(np.int32)
    noisy = dataclasses.replace(BATCH, token_BT=noise_BT, target_BQ=noise_BQ)
    np.testing.assert_array_equal(losses(lm, some_scale(lm), noisy), expected)


def test_each_answer_counts_once_however_long():
    rows = [Row([1], [1, 1]), Row([2], [1]), Row([3], [1], [1, 1])]
    batch = first(pack_alone(rows, Shape(1, 4, 4, 4, 1)))
    value_BQ = jnp.array([[1.0, 3, 100, 100], [5, 100, 100, 100], [8, 6, 4, 100], [100] * 4])
    plain_BR2, decayed_BR2 = (answer_means(value_BQ, batch, decay) for decay in (1.0, 0.5))
    np.testing.assert_allclose(plain_BR2[:, 0], [[2, 0], [5, 0], [8, 5], [0, 0]])
    np.testing.assert_allclose(decayed_BR2[0, 0, 0], (1 + 3 / 2) / 1.5)
    np.testing.assert_allclose(decayed_BR2[2, 0, 1], (6 + 4 / 2) / 1.5)
    np.testing.assert_allclose(row_sum(plain_BR2[..., 0], batch), (2 + 5 + 8) / 3)


def test_a_batch_of_filler_alone_is_zero_not_nan():
    lm = model()
    empty = first(pack_rows([], SHAPE))
    value, slope_LF = jax.jit(jax.value_and_grad(nll, argnums=1))(lm, some_scale(lm), empty)
    assert value == 0 and (np.asarray(slope_LF) == 0).all()


def test_bfloat16_weights_give_a_float32_loss():
    lm = load_weights(str(tiny.checkpoint("qwen2")), "bfloat16", make_mesh())
    value, slope_LF = jax.jit(jax.value_and_grad(nll, argnums=1))(lm, some_scale(lm), BATCH)
    assert value.dtype == slope_LF.dtype == jnp.float32
    np.testing.assert_allclose(value, nll(model(), some_scale(lm), BATCH), rtol=2e-2)


# --- stretches one after the other ---------------------------------------------------------------


LONG = [Row([7] * 20, [1, 2, 3]), Row([9] * 30, [4, 5]), Row([11] * 12, [6])]  # 22, 31, 12 tokens


def test_of_a_stretch_whose_second_half_only_fills_the_first_half_runs():
    batch = pack_rows(LONG, Shape(stretches=4, side=1, length=48, targets=4, rows=2))
    assert fill(LONG, 48) == [[1, 2], [0]]  # 43 of 48 tokens, 22, and two stretches of nothing
    tokens = over_stretches(lambda part: jnp.asarray(part.token_BT.size), batch)
    assert tokens == 48 + half(48) == 48 + 32
    beside = pack_rows(LONG, Shape(stretches=1, side=2, length=48, targets=4, rows=2))
    assert over_stretches(lambda part: jnp.asarray(part.token_BT.size), beside) == 2 * 48


@pytest.mark.parametrize("length", [32, 48, 64, 80])
def test_the_length_of_sequences_changes_no_loss_and_no_gradient(length):
    lm, scale_LF = model(), some_scale(model())
    scale_LF[0] = 1  # so that the first layer may run apart

    def together(scale_LF, lm, batch):
        return over_stretches(lambda part: nll(lm, scale_LF, part), batch)

    def one_by_one(scale_LF):
        alone = (pack_alone([row], Shape(1, 1, row.tokens, 3, 1)) for row in LONG)
        return sum(nll(lm, scale_LF, first(batch)) for batch in alone) / len(LONG)

    batch = pack_rows(LONG, shape_of(LONG, length, 1))
    entered = dataclasses.replace(batch, x_BTD=residual_at(lm, batch, 1))
    value, slope_LF = jax.value_and_grad(one_by_one)(scale_LF)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    rule = jax.jit(jax.value_and_grad(together))
    jax.tree.map(close, rule(scale_LF, lm, batch), (value, slope_LF))
    jax.tree.map(close, rule(scale_LF[1:], lm.above(1), entered), (value, slope_LF[1:]))


# --- margin over declined answers ----------------------------------------------------------------


def test_the_margin_is_counted_row_by_row():
    lm, decay = model(), 0.8
    declined = [[4, 4], [30], [7, 7, 7]]
    rows = [dataclasses.replace(row, declined=d) for row, d in zip(ROWS, declined, strict=True)]
    batch = first(pack_rows(rows, Shape(1, 1, 24, 18, 4)))
    loss, margin = jax.jit(nll_and_margin)(lm, some_scale(lm), batch, decay=decay)
    np.testing.assert_allclose(loss, nll(lm, some_scale(lm), batch, decay=decay), rtol=1e-6)
    short = []
    for row in rows:
        good_nll, bad_nll = (
            float(nll(lm, some_scale(lm), lone(row.prompt, ids), decay=decay))
            for ids in (row.answer, row.declined)
        )
        short.append(np.logaddexp(0, 4 * (MARGIN - (bad_nll - good_nll))) / 4)
    np.testing.assert_allclose(margin, np.mean(short), rtol=1e-5)
    same = [dataclasses.replace(row, declined=row.answer) for row in ROWS]
    likely = first(pack_rows(same, Shape(1, 1, 24, 18, 4)))
    no_margin = np.logaddexp(0, 4 * MARGIN) / 4
    np.testing.assert_allclose(nll_and_margin(lm, some_scale(lm), likely)[1], no_margin, rtol=1e-5)


def lone(prompt, answer):
    """A batch of one row."""
    return first(pack_alone([Row(prompt, answer)], Shape(1, 1, 12, 6, 1)))
