"""How likely given answers are under a model, and how far two models differ along them.

B rows, T tokens, A answer tokens, C letters, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from nt_jax.data.batching import AnswerBatch, batches_by_length, bucket, pack, pad_left
from nt_jax.mesh import filled, host, put, sharding
from nt_jax.models.fused_attention import attention_of
from nt_jax.models.transformer import LanguageModel, forward, token_log_probs, unembed

KL_ROWS = 8  # two whole vocabularies per answer token are in memory
OnRows = Callable[[int], None]


def next_token_logits(
    lm: LanguageModel, scale_LF: Array, token_BT: Array, mask_BT: Array, columns: slice
) -> Float[Array, "B A V"]:
    """Logits, float32 or wider, of the tokens that follow the given columns."""
    model = lm.module(scale_LF)
    trace = forward(model, lm.config, token_BT, mask_BT, attention=attention_of(lm))
    return unembed(model, trace.x_BTD[:, columns], lm.config.rms_eps)


def answer_logits(lm: LanguageModel, scale_LF: Array, batch: AnswerBatch) -> Float[Array, "B A V"]:
    """Logits of each answer token, given those before it."""
    columns = slice(batch.prompt_BP.shape[1] - 1, -1)
    return next_token_logits(lm, scale_LF, batch.tokens_BT, batch.mask_BT, columns)


@jax.jit
def batch_scores(lm: LanguageModel, scale_LF: Array, batch: AnswerBatch) -> tuple[Array, Array]:
    """(summed negative log-likelihood in nats, whether greedy decoding gives it), [B] each."""
    logits_BAV = answer_logits(lm, scale_LF, batch)
    answer_BA = jnp.asarray(batch.answer_BA)
    log_prob_BA = token_log_probs(logits_BAV, answer_BA)
    greedy_BA = (jnp.argmax(logits_BAV, axis=-1) == answer_BA) | ~batch.answer_mask_BA
    return -jnp.where(batch.answer_mask_BA, log_prob_BA, 0).sum(axis=1), greedy_BA.all(axis=1)


@jax.jit
def batch_kl(
    base: LanguageModel, base_LF: Array, lm: LanguageModel, scale_LF: Array, batch: AnswerBatch
) -> Float[Array, " B"]:
    """KL(base || lm) in nats, summed over the tokens of each answer."""
    p_BAV, q_BAV = (
        jax.nn.log_softmax(answer_logits(*model, batch).astype(jnp.float32), axis=-1)
        for model in ((base, base_LF), (lm, scale_LF))
    )
    kl_BA = (jnp.exp(p_BAV) * (p_BAV - q_BAV)).sum(axis=-1)
    return jnp.where(batch.answer_mask_BA, kl_BA, 0).sum(axis=1)


@jax.jit
def letter_log_probs(
    lm: LanguageModel, scale_LF: Array, token_BT: Array, mask_BT: Array, letter_C: Array
) -> Float[Array, "B C"]:
    """Log-probability of each letter token as the next one after the prompt, float32."""
    logits_BV = next_token_logits(lm, scale_LF, token_BT, mask_BT, slice(-1, None))[:, 0]
    log_prob_BV = jax.nn.log_softmax(logits_BV.astype(jnp.float32), axis=-1)
    return jnp.take(log_prob_BV, letter_C, axis=1)


def answer_batches(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], batch_size: int, mesh: Mesh
) -> Iterator[tuple[list[int], AnswerBatch]]:
    """(row numbers, batch on the mesh) over all rows, rows of like length together.

    Every batch has `batch_size` rows, or as many more as the mesh cuts into equal parts; rows that
    are missing are filled up.
    """
    batch_size = filled(batch_size, mesh)
    answer_width = bucket(max(map(len, answers), default=1))
    for width, rows in batches_by_length([len(ids) for ids in prompts], batch_size):
        batch = pack(
            [prompts[row] for row in rows],
            [answers[row] for row in rows],
            prompt_width=width,
            answer_width=answer_width,
            rows=batch_size,
        )
        yield rows, put(batch, sharding(mesh, "B"))


def answer_scores(
    lm: LanguageModel,
    scale_LF: Array,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    batch_size: int,
    on_batch: OnRows = lambda rows: None,
) -> tuple[np.ndarray, np.ndarray]:
    """(negative log-likelihood in nats, float64; whether greedy decoding gives it), per answer."""
    nats, greedy = np.zeros(len(prompts)), np.zeros(len(prompts), bool)
    for rows, batch in answer_batches(prompts, answers, batch_size, lm.mesh):
        found = host(batch_scores(lm, scale_LF, batch))
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
    on_batch: OnRows = lambda rows: None,
) -> np.ndarray:
    """Float64 [rows, 2]: summed negative log-likelihood in nats, and tokens, of each answer."""
    settings = {"batch_size": batch_size, "on_batch": on_batch}
    nats, _ = answer_scores(lm, scale_LF, prompts, answers, **settings)
    return np.stack([nats, np.array([len(answer) for answer in answers], float)], axis=1)


def answer_kl(
    base: tuple[LanguageModel, Array],
    other: tuple[LanguageModel, Array],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    on_batch: OnRows = lambda rows: None,
) -> np.ndarray:
    """Float64 [rows, 2]: KL(base || other) in nats summed over an answer, and its tokens.

    `base` and `other` are models with their factors; they share one vocabulary.
    """
    scores = np.array([[0.0, len(answer)] for answer in answers]).reshape(-1, 2)
    for rows, batch in answer_batches(prompts, answers, KL_ROWS, base[0].mesh):
        scores[rows, 0] = host(batch_kl(*base, *other, batch))[: len(rows)]
        on_batch(len(rows))
    return scores


def score_letters(
    lm: LanguageModel,
    scale_LF: Array,
    prompts: Sequence[Sequence[int]],
    letters: Sequence[int],
    *,
    batch_size: int,
    on_batch: Callable[[list[int], np.ndarray], None],
) -> None:
    """Call `on_batch(rows, log_prob_RC)` for each batch of prompts."""
    place, batch_size = sharding(lm.mesh, "B"), filled(batch_size, lm.mesh)
    letter_C = jnp.asarray(letters, jnp.int32)
    for width, rows in batches_by_length([len(ids) for ids in prompts], batch_size):
        batch = pad_left([prompts[row] for row in rows], width, batch_size)
        token_BT, mask_BT = put(batch, place)
        log_prob_BC = letter_log_probs(lm, scale_LF, token_BT, mask_BT, letter_C)
        on_batch(rows, host(log_prob_BC)[: len(rows)])
