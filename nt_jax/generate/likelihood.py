"""How likely given answers are under a model: the numbers behind perplexity. B rows, A tokens."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from nt_jax.data.batching import AnswerBatch, batches_by_length, bucket, pack
from nt_jax.mesh import sharding
from nt_jax.models.transformer import LanguageModel, forward, token_log_probs, unembed


@jax.jit
def batch_scores(lm: LanguageModel, scale_LF: Array, batch: AnswerBatch) -> tuple[Array, Array]:
    """(summed negative log-likelihood in nats, whether greedy decoding gives it), [B] each."""
    model, width = lm.module(scale_LF), batch.prompt_BP.shape[1]
    trace = forward(model, lm.config, batch.tokens_BT, batch.mask_BT)
    x_BAD = trace.x_BTD[:, width - 1 : -1]
    logits_BAV = unembed(model, x_BAD, lm.config.rms_eps)
    answer_BA = jnp.asarray(batch.answer_BA)
    log_prob_BA = token_log_probs(logits_BAV, answer_BA)
    greedy_BA = (jnp.argmax(logits_BAV, axis=-1) == answer_BA) | ~batch.answer_mask_BA
    return -jnp.where(batch.answer_mask_BA, log_prob_BA, 0).sum(axis=1), greedy_BA.all(axis=1)


def answer_batches(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    batch_size: int,
    mesh: Mesh,
) -> Iterator[tuple[list[int], AnswerBatch]]:
    """(row numbers, batch on the mesh) over all rows, rows of like length together.

    Every batch has `batch_size` rows, the last ones filled up.
    """
    answer_width = bucket(max(map(len, answers), default=1))
    for width, rows in batches_by_length([len(ids) for ids in prompts], batch_size):
        batch = pack(
            [prompts[row] for row in rows],
            [answers[row] for row in rows],
            prompt_width=width,
            answer_width=answer_width,
            rows=batch_size,
        )
        yield rows, jax.device_put(batch, sharding(mesh, "B"))


def answer_scores(
    lm: LanguageModel,
    scale_LF: Array,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> tuple[np.ndarray, np.ndarray]:
    """(negative log-likelihood in nats, float64; whether greedy decoding gives it), per answer."""
    nats, greedy = np.zeros(len(prompts)), np.zeros(len(prompts), bool)
    for rows, batch in answer_batches(prompts, answers, batch_size, lm.mesh):
        found = jax.device_get(batch_scores(lm, scale_LF, batch))
        nats[rows], greedy[rows] = (part[: len(rows)] for part in found)
        on_batch(len(rows))
    return nats, greedy


def answer_nll(
    lm: LanguageModel,
    scale_LF: Array,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> np.ndarray:
    """Float64 [rows, 2]: summed negative log-likelihood in nats, and tokens, of each answer."""
    nats, _ = answer_scores(
        lm, scale_LF, prompts, answers, batch_size=batch_size, on_batch=on_batch
    )  # fmt: skip
    return np.stack([nats, np.array([len(answer) for answer in answers], float)], axis=1)
