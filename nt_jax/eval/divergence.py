"""How far a model has moved from another one: KL over whole answers. B rows, A answer tokens."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nt_jax.data.batching import AnswerBatch
from nt_jax.generate.likelihood import answer_batches
from nt_jax.models.transformer import LanguageModel, forward, unembed

ROWS = 8  # two whole vocabularies per answer token are in memory


def answer_log_probs(lm: LanguageModel, scale_LF: Array, batch: AnswerBatch) -> Array:
    """Float32 [B, A, V]: log-probabilities at each answer token, given those before it."""
    model, width = lm.module(scale_LF), batch.prompt_BP.shape[1]
    trace = forward(model, lm.config, batch.tokens_BT, batch.mask_BT)
    logits_BAV = unembed(model, trace.x_BTD[:, width - 1 : -1], lm.config.rms_eps)
    return jax.nn.log_softmax(logits_BAV.astype(jnp.float32), axis=-1)


@jax.jit
def batch_kl(
    base: LanguageModel, base_LF: Array, lm: LanguageModel, scale_LF: Array, batch: AnswerBatch
) -> Array:
    """[B]: KL(base || lm) in nats, summed over the tokens of each answer."""
    p_BAV = answer_log_probs(base, base_LF, batch)
    q_BAV = answer_log_probs(lm, scale_LF, batch)
    kl_BA = (jnp.exp(p_BAV) * (p_BAV - q_BAV)).sum(axis=-1)
    return jnp.where(batch.answer_mask_BA, kl_BA, 0).sum(axis=1)


def answer_kl(
    base: tuple[LanguageModel, Array],
    other: tuple[LanguageModel, Array],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    on_batch: Callable[[int], None] = lambda rows: None,
) -> np.ndarray:
    """Float64 [rows, 2]: KL(base || other) in nats summed over an answer, and its tokens.

    `base` and `other` are models with their factors; they share one vocabulary.
    """
    scores = np.array([[0.0, len(answer)] for answer in answers])
    mesh = base[0].mesh
    step = mesh.shape["data"]
    batch_size = max(step, ROWS // step * step)
    for rows, batch in answer_batches(prompts, answers, batch_size, mesh):
        scores[rows, 0] = np.asarray(batch_kl(*base, *other, batch))[: len(rows)]
        on_batch(len(rows))
    return scores
