"""The output head a stretch of the vocabulary at a time: likelihoods without all logits at once.

B sequences, Q targets, D width, V vocabulary. Logits of many targets over a vocabulary of 128,000
are larger than everything else that a loss holds; above LOGIT_BYTES they are made in stretches of
the vocabulary and forgotten, and made again on the way back.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nt_jax.models.layers import rms_norm
from nt_jax.models.precision import wide_dtype
from nt_jax.models.transformer import LanguageModel, Transformer, token_log_probs, unembed

LOGIT_BYTES = 1 << 27  # of float32 logits that may be held at once


def stretch_width(lm: LanguageModel, targets: int) -> int:
    """Tokens of the vocabulary whose logits are made together; all of them where they fit.

    Always all where the vocabulary is spread over devices, as each then holds its part only.
    """
    vocab = lm.config.vocab_size
    if lm.mesh.shape["model"] > 1:
        return vocab
    return min(vocab, max(1, LOGIT_BYTES // (4 * targets)))


def target_log_probs(
    lm: LanguageModel, model: Transformer, x_BQD: Array, target_BQ: Int[Array, "B Q"]
) -> Float[Array, "B Q"]:
    """Log-probability of each target, from the residual stream after the last layer; float32+."""
    if stretch_width(lm, target_BQ.size) == lm.config.vocab_size:
        return token_log_probs(unembed(model, x_BQD, lm.config.rms_eps), target_BQ)
    total_BQ, chosen_BQ = _normaliser(lm, model, x_BQD, target_BQ)
    return chosen_BQ - total_BQ


def divergence(
    lm: LanguageModel, base: Transformer, base_BQD: Array, model: Transformer, x_BQD: Array
) -> Float[Array, "B Q"]:
    """KL(base || model) of the next token at each target, in nats."""
    if stretch_width(lm, x_BQD.shape[0] * x_BQD.shape[1]) == lm.config.vocab_size:
        base_BQV, new_BQV = (
            jax.nn.log_softmax(unembed(m, x, lm.config.rms_eps))
            for m, x in ((base, base_BQD), (model, x_BQD))
        )
        return (jnp.exp(base_BQV) * (base_BQV - new_BQV)).sum(axis=-1)
    any_BQ = jnp.zeros(x_BQD.shape[:2], jnp.int32)
    base_total_BQ, _ = _normaliser(lm, base, base_BQD, any_BQ)
    total_BQ, _ = _normaliser(lm, model, x_BQD, any_BQ)
    base_BQD, x_BQD = (_normed(lm, m, x) for m, x in ((base, base_BQD), (model, x_BQD)))

    def add(kl_BQ: Array, logits: Callable[..., Array], fresh_W: Array, _: Array) -> Array:
        base_BQW = logits(base, base_BQD) - base_total_BQ[:, :, None]
        new_BQW = logits(model, x_BQD) - total_BQ[:, :, None]
        part_BQW = jnp.exp(base_BQW) * (base_BQW - new_BQW)
        return kl_BQ + jnp.where(fresh_W[None, None], part_BQW, 0).sum(axis=-1)

    return _over_vocabulary(lm, x_BQD, jnp.zeros_like(total_BQ), add)


def _normaliser(
    lm: LanguageModel, model: Transformer, x_BQD: Array, target_BQ: Array
) -> tuple[Array, Array]:
    """(log of the sum of exp over the vocabulary, logit of the target), each [B, Q]."""
    x_BQD = _normed(lm, model, x_BQD)
    wide = wide_dtype(x_BQD.dtype)
    least, zero_BQ = jnp.finfo(wide).min, jnp.zeros(x_BQD.shape[:2], wide)

    def add(carry: tuple, logits: Callable[..., Array], fresh_W: Array, start: Array) -> tuple:
        most_BQ, sum_BQ, chosen_BQ = carry
        logits_BQW = jnp.where(fresh_W[None, None], logits(model, x_BQD), least)
        # Any shift serves: it is a constant to every derivative.
        peak_BQ = jax.lax.stop_gradient(jnp.maximum(most_BQ, logits_BQW.max(axis=-1)))
        sum_BQ = sum_BQ * jnp.exp(most_BQ - peak_BQ)
        sum_BQ = sum_BQ + jnp.exp(logits_BQW - peak_BQ[:, :, None]).sum(axis=-1)
        at_BQ = jnp.clip(target_BQ - start, 0, len(fresh_W) - 1)
        found_BQ = jnp.take_along_axis(logits_BQW, at_BQ[:, :, None], axis=-1)[:, :, 0]
        here_BQ = (target_BQ - start == at_BQ) & jnp.take(fresh_W, at_BQ)
        return peak_BQ, sum_BQ, jnp.where(here_BQ, found_BQ, chosen_BQ)

    start = (jnp.full_like(zero_BQ, least), zero_BQ, zero_BQ)
    peak_BQ, sum_BQ, chosen_BQ = _over_vocabulary(lm, x_BQD, start, add)
    return peak_BQ + jnp.log(sum_BQ), chosen_BQ


def _normed(lm: LanguageModel, model: Transformer, x_BQD: Array) -> Array:
    return rms_norm(x_BQD, model.final_norm[...], lm.config.rms_eps)


def _over_vocabulary(lm: LanguageModel, x_BQD: Array, carry: Any, add: Callable[..., Any]) -> Any:
    """`add(carry, logits of a model, which are fresh, first token)` over the vocabulary.

    The last stretch ends with the vocabulary and may repeat tokens, which are not fresh.
    """
    vocab = lm.config.vocab_size
    width = stretch_width(lm, x_BQD.shape[0] * x_BQD.shape[1])

    def stretch(carry: Any, first: Array):
        start = jnp.minimum(first, vocab - width)

        def logits(model: Transformer, x_BQD: Array) -> Array:
            axis, weight = (0, model.embed) if model.head is None else (1, model.head)
            part = jax.lax.dynamic_slice_in_dim(weight[...], start, width, axis)
            form = "BQD,VD->BQV" if model.head is None else "BQD,DV->BQV"
            wide = wide_dtype(x_BQD.dtype)
            return jnp.einsum(form, x_BQD, part, preferred_element_type=wide)

        fresh_W = start + jnp.arange(width, dtype=jnp.int32) >= first
        return add(carry, logits, fresh_W, start), None

    firsts = jnp.arange(0, vocab, width, dtype=jnp.int32)
    return jax.lax.scan(jax.checkpoint(stretch), carry, firsts)[0]
