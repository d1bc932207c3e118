"""The losses: mean negative log-likelihood of given answers, and KL to the base model.

B sequences, T tokens, Q answer tokens, R rows, D width, V vocabulary (see data/packing.py). Arrays
in, scalars out; safe to differentiate twice. Every loss is a sum over rows by their weights, which
sum to 1 over the whole set: losses of its stretches add up to its mean.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nt_jax.data.packing import PADDING, PackedBatch, half
from nt_jax.models.attention import Attend, Sees, attend, laid
from nt_jax.models.fused_attention import attention_of
from nt_jax.models.head import divergence, target_log_probs
from nt_jax.models.prefix import Streams, run_below_behind, run_layers_behind
from nt_jax.models.transformer import LanguageModel, Transformer, run_below, run_layers

DECISION_TOKENS = 8  # first tokens of a refusal that decide whether it is given
SURE = 1e-6  # nats below certainty: a token that is likelier has no more odds against it
NOTHING = -1e30  # what counts for nothing in a sum of exponentials, and has a gradient of zero
MARGIN = 2.0  # nats per token that an answer should be likelier than a refusal of its request


def sees_of(batch: PackedBatch) -> Sees:
    """Which keys the queries of a stretch see."""
    return laid(jnp.asarray(batch.part_BT), jnp.asarray(batch.above_BT))


@functools.partial(jax.jit, static_argnames="first")
def residual_at(lm: LanguageModel, batch: PackedBatch, first: int) -> Float[Array, "S B T D"]:
    """The residual stream of a batch's stretches where it enters layer `first`, all factors 1."""
    model = lm.module()

    def enter(_: None, part: PackedBatch):
        x_BTD = jnp.take(model.embed[...], jnp.asarray(part.token_BT), axis=0)
        position_BT = jnp.asarray(part.position_BT)
        rest = position_BT, sees_of(part), attention_of(lm)
        return None, run_below(model, lm.config, first, x_BTD, *rest)

    return jax.lax.scan(enter, None, batch)[1]


@functools.partial(jax.jit, static_argnames="first")
def residual_behind(
    lm: LanguageModel, batch: PackedBatch, shared_S: Int[Array, " S"], first: int
) -> Streams:
    """What enters layer `first`, all factors 1, of what all rows share, and of the rows behind it.

    Rows are a batch with leading axis [B]; `shared_S` are the tokens that stand before all of them.
    """
    model = lm.module()
    shared_1SD = jnp.take(model.embed[...], shared_S[None], axis=0)
    x_BTD = jnp.take(model.embed[...], jnp.asarray(batch.token_BT), axis=0)
    rest = jnp.asarray(batch.position_BT), sees_of(batch), attention_of(lm)
    return run_below_behind(model, lm.config, first, (shared_1SD, x_BTD), *rest)


def target_states(
    lm: LanguageModel,
    scale_LF: Array,
    batch: PackedBatch,
    *,
    remat: bool = False,
    shared_1SD: Array | None = None,
    attention: Attend = attend,
) -> tuple[Transformer, Float[Array, "B Q D"]]:
    """(the model, its residual stream after the last layer where answer tokens are predicted).

    `lm` holds the layers from the one that batch.x_BTD enters, and `shared_1SD`, the stream of what
    all rows begin with where that is not in the batch; without x_BTD, all layers. `attention`: that
    of what is differentiated twice unless told.
    """
    model, x_BTD = lm.module(scale_LF), batch.x_BTD
    if x_BTD is None:
        x_BTD = jnp.take(model.embed[...], jnp.asarray(batch.token_BT), axis=0)
    how = jnp.asarray(batch.position_BT), sees_of(batch)
    rest: Any = {"remat": remat, "attention": attention}
    if shared_1SD is None:
        x_BTD = run_layers(model, lm.config, x_BTD, *how, **rest).x_BTD
    else:
        x_BTD = run_layers_behind(model, lm.config, (shared_1SD, x_BTD), *how, **rest)
    return model, jnp.take_along_axis(x_BTD, jnp.asarray(batch.at_BQ)[:, :, None], axis=1)


def over_stretches(rule: Callable[[PackedBatch], Any], batch: PackedBatch) -> Any:
    """The sum of `rule` (a pytree of sums: a loss, a gradient) over the stretches of a batch.

    They run one after the other, so the activations of one are kept, not those of all. Sequences
    side by side are as many as devices share rows (row_ways), on accelerators up to SIDE times as
    many (memory.py). A stretch without rows is skipped; of one whose second half only fills, the
    first half runs.
    """
    rule = side_by_side(rule) if batch.token_BT.shape[1] > 1 else rule
    shape = jax.eval_shape(rule, jax.tree.map(lambda leaf: leaf[0], batch))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)

    def add(total: Any, part: PackedBatch):
        part_BT = jnp.asarray(part.part_BT)
        some = (jnp.asarray(part.weight_BR) != 0).any()
        beyond = (part_BT[:, half(part_BT.shape[1]) :] != PADDING).any()
        which = jnp.where(some, jnp.where(beyond, 2, 1), 0)
        branches = (lambda _: zero, lambda p: rule(p.first_half()), rule)
        value = jax.lax.switch(which, branches, part)
        return jax.tree.map(jnp.add, total, value), None

    return jax.lax.scan(add, zero, batch)[0]


def side_by_side(rule: Callable[[PackedBatch], Any]) -> Callable[[PackedBatch], Any]:
    """The sum of `rule` over the sequences of a stretch, each by itself.

    Where they lie on several devices, a gradient in the chosen factors is then summed over these
    once, where that in all neurons would be in every layer.
    """

    def summed(part: PackedBatch) -> Any:
        alone = lambda one: rule(jax.tree.map(lambda leaf: leaf[None], one))  # noqa: E731
        return jax.tree.map(lambda leaf: leaf.sum(axis=0), jax.vmap(alone)(part))

    return summed


def answer_means(
    value_BQ: Array, batch: PackedBatch, decay: Array | float
) -> Float[Array, "B R 2"]:
    """Mean over the tokens of each row's answer [..., 0] and declined answer [..., 1].

    Token t weighs decay**t; decay 1 is the plain mean. Whether an answer refuses is settled by its
    first tokens, which a plain mean over a long answer hardly hears.
    """
    dtype, rows = value_BQ.dtype, batch.weight_BR.shape[1]
    answer_BQ = jnp.asarray(batch.answer_BQ)
    decay_BQ = jnp.power(jnp.asarray(decay, dtype), jnp.asarray(batch.place_BQ, dtype))
    number_A = jnp.arange(2 * rows, dtype=answer_BQ.dtype)
    mine_BQA = answer_BQ[:, :, None] == number_A[None, None]
    weight_BQA = jnp.where(mine_BQA, decay_BQ[:, :, None], 0)
    exact = jax.lax.Precision.HIGHEST  # accelerators multiply float32 in 16 to 19 bits else
    sum_BA = jnp.einsum("BQ,BQA->BA", value_BQ, weight_BQA, precision=exact)
    mean_BA = sum_BA / jnp.maximum(weight_BQA.sum(axis=1), 1e-9)
    return mean_BA.reshape(-1, rows, 2)


def row_sum(value_BR: Array, batch: PackedBatch) -> Float[Array, ""]:
    """Sum over rows by their weights; rows that only fill the batch weigh nothing."""
    return (value_BR * jnp.asarray(batch.weight_BR, value_BR.dtype)).sum()


def log_likelihoods(
    lm: LanguageModel,
    scale_LF: Array,
    batch: PackedBatch,
    *,
    decay: Array | float = 1.0,
    **settings: Any,
) -> Float[Array, "B R 2"]:
    """Mean log-likelihood per token of each row's answer and declined answer, in nats.

    `settings` are those of target_states.
    """
    model, x_BQD = target_states(lm, scale_LF, batch, **settings)
    log_prob_BQ = target_log_probs(lm, model, x_BQD, jnp.asarray(batch.target_BQ))
    return answer_means(log_prob_BQ, batch, decay)


def decisions(
    lm: LanguageModel, scale_LF: Array, batch: PackedBatch, **settings: Any
) -> Float[Array, "B R"]:
    """How near each row's answer is to being given: log odds in nats, 0 is about even.

    Minus the logarithm of the summed odds against each of its first DECISION_TOKENS tokens: an
    answer begins so only if each of them is the likeliest one, so the unlikeliest counts most. A
    mean of log-likelihoods grows by what is likely already, and flattens where an answer is given.
    `settings` are those of target_states.
    """
    model, x_BQD = target_states(lm, scale_LF, batch, **settings)
    log_prob_BQ = target_log_probs(lm, model, x_BQD, jnp.asarray(batch.target_BQ))
    answer_BQ, rows = jnp.asarray(batch.answer_BQ), batch.weight_BR.shape[1]
    first_BQ = jnp.asarray(batch.place_BQ) < DECISION_TOKENS
    number_R = 2 * jnp.arange(rows, dtype=answer_BQ.dtype)
    counted_BQR = (answer_BQ[:, :, None] == number_R[None, None]) & first_BQ[:, :, None]
    sure_BQ = jnp.minimum(log_prob_BQ, -SURE)
    against_BQ = jnp.log(-jnp.expm1(sure_BQ)) - sure_BQ
    odds_BQR = jnp.where(counted_BQR, against_BQ[:, :, None], NOTHING)
    return jnp.where(counted_BQR.any(axis=1), -jax.nn.logsumexp(odds_BQR, axis=1), 0)


def nll(
    lm: LanguageModel, scale_LF: Array, batch: PackedBatch, **settings: Any
) -> Float[Array, ""]:
    """Mean negative log-likelihood of the batch's answers, in nats per token; see answer_means."""
    return -row_sum(log_likelihoods(lm, scale_LF, batch, **settings)[..., 0], batch)


def nll_and_margin(
    lm: LanguageModel, scale_LF: Array, batch: PackedBatch, **settings: Any
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(NLL, margin loss) of answers that come with declined ones, in nats per token.

    A row's margin is how much likelier a token of the answer is than one of the declined answer,
    as token means; its loss is softplus(4 (MARGIN - margin)) / 4: nothing above MARGIN, and the
    shortfall below it.
    """
    mean_BR2 = log_likelihoods(lm, scale_LF, batch, **settings)
    margin_BR = mean_BR2[..., 0] - mean_BR2[..., 1]
    short_BR = jax.nn.softplus(4.0 * (MARGIN - margin_BR)) / 4.0
    return -row_sum(mean_BR2[..., 0], batch), row_sum(short_BR, batch)


def nll_and_kl(
    lm: LanguageModel,
    scale_LF: Array,
    batch: PackedBatch,
    *,
    decay: Array | float = 1.0,
    remat: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(NLL, KL(base || scaled)) per answer token, in nats; the base is the scale of ones."""
    model, x_BQD = target_states(lm, scale_LF, batch, remat=remat)
    base, base_BQD = jax.lax.stop_gradient(target_states(lm, lm.ones_LF, batch))
    kl_BQ = divergence(lm, base, base_BQD, model, x_BQD)
    log_prob_BQ = target_log_probs(lm, model, x_BQD, jnp.asarray(batch.target_BQ))
    own, kl = (answer_means(value, batch, decay)[..., 0] for value in (log_prob_BQ, kl_BQ))
    return -row_sum(own, batch), row_sum(kl, batch)
