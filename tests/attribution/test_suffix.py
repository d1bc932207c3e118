"""Running only the suffix is exact: same streams, same gradients, whatever the padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nt_jax.attribution.integrated import row_gradients
from nt_jax.attribution.suffix import run_from, run_prefix, target_value
from nt_jax.data.batching import pad_left
from nt_jax.models.attention import attend
from nt_jax.models.layers import at_layer
from nt_jax.models.transformer import forward
from tests import plain

PROMPT, ANSWER = [17, 30, 5, 9, 3, 22, 8], [21, 6, 33, 12]
LAYERS = plain.CONFIG.layers
TARGETS = ("mean_logprob", "first_token", "sum_logprob")


@functools.cache
def model():
    return plain.random_model(dtype=jnp.float64)


def prefix_of(lm, width: int = 7, length: int = 4, prompt=PROMPT, answer=ANSWER):
    token_BP, mask_BP = pad_left([prompt], width)
    answer_T = np.zeros(length, np.int32)
    answer_T[: len(answer)] = answer
    return run_prefix(lm, token_BP[0], mask_BP[0], answer_T, np.arange(length) < len(answer))


def at(layer: int) -> jax.Array:
    return jnp.int32(layer)


jitted_run = jax.jit(run_from)


@jax.jit
def by_loop(lm, prefix, x_TD, weight_TD, begin, enter):
    """A weighted sum of the last layer's suffix, and its gradient, as the package has them."""

    def value(x_TD):
        return (run_from(lm, prefix, begin, enter, x_TD) * weight_TD).sum()

    return jax.value_and_grad(value)(x_TD)


def suffix_block(lm, prefix, index, x_TD):
    """One whole layer, which jax differentiates as it stands."""
    graphdef, stacked = nnx.split(lm.module().blocks)
    block = nnx.merge(graphdef, at_layer(stacked, index))
    past_k, past_v = at_layer((prefix.keys_LSKH, prefix.values_LSKH), index)

    def mix(q, k, v):
        return attend(q, [past_k, k], [past_v, v], prefix.sees)

    rotary = (prefix.cos_TH, prefix.sin_TH)
    return block(x_TD[None], rotary, lm.config.rms_eps, mix)[0][0]


@jax.jit
def unrolled(lm, prefix, x_TD, weight_TD, enter):
    """The same, layer after layer, differentiated by jax."""

    def value(x_TD):
        for layer in range(LAYERS):
            x_TD = jnp.where(layer >= enter, suffix_block(lm, prefix, at(layer), x_TD), x_TD)
        return (x_TD * weight_TD).sum()

    return jax.value_and_grad(value)(x_TD)


# --- one clean pass ------------------------------------------------------------------------------


def test_the_prefix_is_that_of_a_whole_pass(x64):
    lm, prefix = model(), prefix_of(model())
    token_BT = np.array([PROMPT + ANSWER[:-1]])
    whole = jax.jit(forward, static_argnames=("config", "inputs_from", "read_at"))(
        lm.module(), lm.config, token_BT, np.ones((1, 10), bool), inputs_from=0, read_at=6
    )
    np.testing.assert_allclose(prefix.entry_TD, whole.input_LBTD[0, 0, 6:], rtol=1e-12)
    after_LTD = [*whole.input_LBTD[1:, 0, 6:], whole.x_BTD[0, 6:]]
    np.testing.assert_allclose(prefix.after_LTD, after_LTD, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(prefix.act_LF, whole.act_LBF[:, 0], rtol=1e-12)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_clean_row_ends_as_the_whole_pass_does(x64, layer):
    lm, prefix = model(), prefix_of(model())
    enter = layer + 1
    end_TD = jitted_run(lm, prefix, at(enter), at(enter), prefix.after_LTD[layer])
    np.testing.assert_allclose(end_TD, prefix.after_LTD[-1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_the_target_is_that_of_a_whole_pass(x64, target):
    lm = model()
    log_prob_A = plain.plain_answer_log_probs(lm, PROMPT, ANSWER)
    expected = {
        "mean_logprob": jnp.exp(log_prob_A.mean()),
        "first_token": jnp.exp(log_prob_A[0]),
        "sum_logprob": log_prob_A.sum(),
    }[target]
    for length in (4, 9):  # tokens beyond the answer do not count
        prefix = prefix_of(lm, length=length)
        found = target_value(lm, prefix, prefix.after_LTD[-1], target)
        np.testing.assert_allclose(found, expected, rtol=1e-11)


# --- the hand-written loop and its reverse -------------------------------------------------------


@pytest.mark.parametrize(("begin", "enter"), [(0, 0), (0, 2), (1, 1), (1, 3), (2, 2), (3, 3)])
def test_values_and_gradients_equal_an_unrolled_run(x64, begin, enter):
    lm, prefix = model(), prefix_of(model())
    generator = np.random.default_rng(enter)
    x_TD, weight_TD = generator.standard_normal((2, *prefix.entry_TD.shape))

    found, slope_TD = by_loop(lm, prefix, x_TD, weight_TD, at(begin), at(enter))
    expected, expected_TD = unrolled(lm, prefix, x_TD, weight_TD, at(enter))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(slope_TD, expected_TD, rtol=1e-8, atol=1e-12)
    if enter == LAYERS:
        np.testing.assert_array_equal(slope_TD, weight_TD)


def test_rows_that_enter_at_different_layers_share_one_batch(x64):
    lm, prefix = model(), prefix_of(model())
    layer_R = np.array([0, 2, 1, 0, 2], np.int32)
    shift_RD = 0.3 * np.random.default_rng(0).standard_normal((5, plain.CONFIG.width))
    rows = functools.partial(row_gradients, target="sum_logprob")
    value_R, slope_RD = rows(lm, prefix, at(1), layer_R, shift_RD)
    for row, layer in enumerate(layer_R):
        alone = rows(lm, prefix, at(layer + 1), layer_R[row : row + 1], shift_RD[row : row + 1])
        np.testing.assert_allclose(value_R[row], alone[0][0], rtol=1e-11)
        np.testing.assert_allclose(slope_RD[row], alone[1][0], rtol=1e-8, atol=1e-13)
    assert np.abs(slope_RD[0] - slope_RD[3]).max() > 1e-3


def test_row_gradients_equal_central_differences(x64):
    lm, prefix = model(), prefix_of(model())
    layer_R, step = np.array([0, 1, 2], np.int32), 1e-5
    generator = np.random.default_rng(0)
    shift_RD, way_RD = 0.3 * generator.standard_normal((2, 3, plain.CONFIG.width))
    rows = functools.partial(row_gradients, lm, prefix, at(1), layer_R, target="mean_logprob")
    _, slope_RD = rows(shift_RD)
    ahead_R, back_R = (rows(shift_RD + sign * step * way_RD)[0] for sign in (1, -1))
    expected_R = (ahead_R - back_R) / (2 * step)
    np.testing.assert_allclose((slope_RD * way_RD).sum(axis=1), expected_R, rtol=1e-7)


# --- what must not matter ------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [PROMPT, [4]], ids=["seven tokens", "one token"])
def test_the_width_of_the_left_padding_does_not_matter(x64, prompt):
    lm = model()
    layer_R, shift_RD = np.arange(LAYERS, dtype=np.int32), np.full((LAYERS, 16), 0.1)
    found = [
        row_gradients(
            lm, prefix_of(lm, width, prompt=prompt), at(1), layer_R, shift_RD, target="sum_logprob"
        )
        for width in (len(prompt), 16)
    ]
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-11)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-9, atol=1e-13)


def test_what_follows_the_answer_does_not_matter(x64):
    lm = model()
    layer_R, shift_RD = np.arange(LAYERS, dtype=np.int32), np.full((LAYERS, 16), 0.1)
    found = [
        row_gradients(lm, prefix, at(1), layer_R, shift_RD, target="mean_logprob")
        for prefix in (prefix_of(lm, length=4), prefix_of(lm, length=8))
    ]
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-11)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-9, atol=1e-13)
