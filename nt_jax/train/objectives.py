"""The losses: mean negative log-likelihood of given answers, and KL to the base model.

B rows, A answer tokens, V vocabulary. Arrays in, scalars out; safe to differentiate twice.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nt_jax.data.batching import AnswerBatch
from nt_jax.models.transformer import LanguageModel, forward, token_log_probs, unembed

MARGIN = 2.0  # nats per token that an answer should be likelier than a refusal of its request


def answer_logits(
    lm: LanguageModel, scale_LF: Array, batch: AnswerBatch, *, remat: bool = False
) -> Float[Array, "B A V"]:
    """Logits that predict each answer token, float32 or wider; prompt positions get no head."""
    model = lm.module(scale_LF)
    trace = forward(model, lm.config, batch.tokens_BT, batch.mask_BT, remat=remat)
    width, answer = batch.prompt_BP.shape[1], batch.answer_BA.shape[1]
    x_BAD = trace.x_BTD[:, width - 1 : width - 1 + answer]  # position t predicts token t + 1
    return unembed(model, x_BAD, lm.config.rms_eps)


def answer_mean(value_BA: Array, batch: AnswerBatch, decay: Array | float) -> Float[Array, ""]:
    """Mean over each answer's tokens, token t weighing decay**t; then over rows by their weights.

    decay 1 is the plain mean. Whether an answer refuses is settled by its first tokens, which a
    plain mean over a long answer hardly hears.
    """
    return row_mean(token_mean(value_BA, batch.answer_mask_BA, decay), batch)


def token_mean(value_BA: Array, mask_BA: ArrayLike, decay: Array | float) -> Float[Array, " B"]:
    """Mean over each row's real tokens, token t weighing decay**t."""
    place_A = jnp.arange(value_BA.shape[1], dtype=value_BA.dtype)
    weight_BA = jnp.asarray(mask_BA, value_BA.dtype)
    weight_BA = weight_BA * jnp.power(jnp.asarray(decay, value_BA.dtype), place_A)[None]
    return (value_BA * weight_BA).sum(axis=1) / jnp.maximum(weight_BA.sum(axis=1), 1e-9)


def row_mean(value_B: Array, batch: AnswerBatch) -> Float[Array, ""]:
    """Mean over rows by their weights; 0 where none counts."""
    weight_B = jnp.asarray(batch.weight_B, value_B.dtype)
    return (value_B * weight_B).sum() / jnp.maximum(weight_B.sum(), 1)


def nll(
    lm: LanguageModel,
    scale_LF: Array,
    batch: AnswerBatch,
    *,
    decay: Array | float = 1.0,
    remat: bool = False,
) -> Float[Array, ""]:
    """Mean negative log-likelihood of the batch's answers, in nats per token; see answer_mean."""
    logits_BAV = answer_logits(lm, scale_LF, batch, remat=remat)
    return -answer_mean(token_log_probs(logits_BAV, jnp.asarray(batch.answer_BA)), batch, decay)


def nll_and_margin(
    lm: LanguageModel,
    scale_LF: Array,
    batch: AnswerBatch,
    *,
    decay: Array | float = 1.0,
    remat: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(NLL, margin loss) of answers that come with declined ones, in nats per token.

    A row's margin is how much likelier a token of the answer is than one of the declined answer,
    as token means; its loss is softplus(4 (MARGIN - margin)) / 4: nothing above MARGIN, and the
    shortfall below it.
    """
    other = dataclasses.replace(
        batch, answer_BA=batch.declined_BA, answer_mask_BA=batch.declined_mask_BA
    )
    own_B, declined_B = (
        token_mean(
            token_log_probs(
                answer_logits(lm, scale_LF, side, remat=remat), jnp.asarray(side.answer_BA)
            ),
            side.answer_mask_BA,
            decay,
        )
        for side in (batch, other)
    )
    short_B = jax.nn.softplus(4.0 * (MARGIN - (own_B - declined_B))) / 4.0
    return -row_mean(own_B, batch), row_mean(short_B, batch)


def nll_and_kl(
    lm: LanguageModel,
    scale_LF: Array,
    batch: AnswerBatch,
    *,
    decay: Array | float = 1.0,
    remat: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(NLL, KL(base || scaled)) per answer token, in nats; the base is the scale of ones."""
    logits_BAV = answer_logits(lm, scale_LF, batch, remat=remat)
    base_BAV = jax.lax.stop_gradient(answer_logits(lm, lm.ones_LF, batch))
    base_BAV, new_BAV = jax.nn.log_softmax(base_BAV), jax.nn.log_softmax(logits_BAV)
    kl_BA = (jnp.exp(base_BAV) * (base_BAV - new_BAV)).sum(axis=-1)
    loss = -answer_mean(token_log_probs(logits_BAV, jnp.asarray(batch.answer_BA)), batch, decay)
    return loss, answer_mean(kl_BA, batch, decay)
