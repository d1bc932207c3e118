"""Likelihoods over stretches of the vocabulary equal those of all logits at once."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from nt_jax.models import head
from tests import plain

TIED = plain.CONFIG
UNTIED = dataclasses.replace(plain.CONFIG, tied=not plain.CONFIG.tied)


def inputs(lm, seed: int = 0):
    draw = np.random.default_rng(seed)
    states = [draw.standard_normal((2, 5, lm.config.width)) for _ in range(2)]
    return states, draw.integers(0, lm.config.vocab_size, (2, 5)).astype(np.int32)


def both(lm, states, target_BQ):
    """(log-probabilities, KL) of the targets as one vector."""
    model = lm.module()
    log_prob_BQ = head.target_log_probs(lm, model, states[0], target_BQ)
    return jnp.stack([log_prob_BQ, head.divergence(lm, model, states[1], model, states[0])])


@pytest.mark.parametrize("config", [TIED, UNTIED])
@pytest.mark.parametrize("width", [1, 7, 16, 39])
def test_stretches_of_any_width_give_the_same_values_and_derivatives(x64, config, width):
    lm = plain.random_model(config, jnp.float64)
    states, target_BQ = inputs(lm)
    way = [np.random.default_rng(9).standard_normal(x.shape) for x in states]

    def everything():
        """Values, gradient, and product of the Hessian with a direction."""
        total = lambda x: (both(lm, x, target_BQ) * jnp.arange(1.0, 3)[:, None, None]).sum()  # noqa: E731
        slope = jax.grad(total)
        return both(lm, states, target_BQ), *jax.jvp(slope, (states,), (way,))

    expected = jax.jit(everything)()
    with mock.patch.object(head, "LOGIT_BYTES", 4 * 10 * width):
        assert head.stretch_width(lm, 10) == width < config.vocab_size
        found = jax.jit(lambda: everything())()  # a program of its own
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), found, expected
    )
    model = lm.module()
    logits_BQV = np.asarray(head.unembed(model, states[0], config.rms_eps))
    by_hand = np.take_along_axis(
        logits_BQV - np.log(np.exp(logits_BQV).sum(-1, keepdims=True)), target_BQ[..., None], -1
    )
    np.testing.assert_allclose(found[0][0], by_hand[..., 0], rtol=1e-10)


def test_logits_larger_than_the_bound_are_never_held(x64):
    lm = plain.random_model(dataclasses.replace(TIED, vocab_size=4000))
    states, target_BQ = inputs(lm)
    states = [np.tile(x, (1, 40, 1)).astype(np.float32) for x in states]
    target_BQ = np.tile(target_BQ, (1, 40))
    loss = lambda x: head.target_log_probs(lm, lm.module(), x, target_BQ).sum()  # noqa: E731

    def temporaries() -> int:
        program = jax.jit(jax.grad(lambda x: loss(x))).lower(states[0]).compile()
        return program.memory_analysis().temp_size_in_bytes

    whole = temporaries()
    assert whole > 4 * 400 * 4000
    with mock.patch.object(head, "LOGIT_BYTES", 4 * 400 * 100):
        assert temporaries() < whole / 5


def test_a_vocabulary_that_is_spread_over_devices_is_taken_whole():
    lm = plain.random_model(mesh=(2, 4), config=plain.MESH_CONFIG)
    assert head.stretch_width(lm, 10**9) == plain.MESH_CONFIG.vocab_size


@pytest.mark.parametrize("config", [TIED, UNTIED])
def test_logits_of_bfloat16_weights_are_not_rounded(config):
    """They are the products of the rounded numbers, to float32; bfloat16 keeps 3 digits."""
    lm = plain.random_model(config, jnp.bfloat16)
    model, ((state_BQD, _), target_BQ) = lm.module(), inputs(lm)
    state_BQD = jnp.asarray(state_BQD, jnp.bfloat16)
    normed_BQD = head.rms_norm(state_BQD, model.final_norm[...], config.rms_eps)
    weight = np.asarray(plain.leaves_of(lm)["embed" if config.tied else "head"], np.float64)
    expected_BQV = np.asarray(normed_BQD, np.float64) @ (weight.T if config.tied else weight)
    found_BQV = head.unembed(model, state_BQD, config.rms_eps)
    assert found_BQV.dtype == jnp.float32
    np.testing.assert_allclose(found_BQV, expected_BQV, rtol=1e-5, atol=1e-5)
    by_hand_BQV = expected_BQV - special.logsumexp(expected_BQV, axis=-1, keepdims=True)
    by_hand = np.take_along_axis(by_hand_BQV, target_BQ[..., None], -1)[..., 0]
    for room in (head.LOGIT_BYTES, 4 * 10 * 7):  # at once, and seven tokens at a time
        with mock.patch.object(head, "LOGIT_BYTES", room):
            found_BQ = head.target_log_probs(lm, model, state_BQD, target_BQ)
        np.testing.assert_allclose(found_BQ, by_hand, rtol=1e-5, atol=1e-5)
