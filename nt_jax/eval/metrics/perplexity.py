"""What a scoring model says about answers: perplexity, and divergence from it per token.

The scorer is the untuned model (or eval.scorer), so a tuned model cannot grade itself.
"""

import numpy as np

from nt_jax.eval.metrics.intervals import bootstrap
from nt_jax.eval.metrics.rows import ResultRow


def perplexity(scores: np.ndarray) -> float:
    """Exponential of the mean negative log-likelihood per token of [answers, (nats, tokens)]."""
    nats, tokens = scores.sum(axis=0)
    return float(np.exp(nats / tokens)) if tokens else float("nan")


def perplexity_row(
    dataset: str, model: str, scores: np.ndarray, scorer: tuple = (None, None), seed: int = 0
) -> ResultRow:
    """One model's perplexity on one dataset, with a bootstrap interval over answers.

    `scorer` is the scoring model's name and hash.
    """
    value = perplexity(scores)
    low, high = bootstrap([scores], lambda means: np.exp(_per_token(means)), seed)
    return ResultRow(dataset, "perplexity", model, value, len(scores), low, high, *scorer)


def kl_row(
    dataset: str, model: str, scores: np.ndarray, scorer: tuple = (None, None), seed: int = 0
) -> ResultRow:
    """Mean KL(base || model) in nats per token of the base model's answers.

    `scores` is [answers, (nats, tokens)]; `scorer` is the base model's name and hash.
    """
    nats, tokens = scores.sum(axis=0)
    low, high = bootstrap([scores], _per_token, seed)
    return ResultRow(dataset, "kl", model, float(nats / tokens), len(scores), low, high, *scorer)


def _per_token(means: list[np.ndarray]) -> np.ndarray:
    nats, tokens = means[0]
    return nats / np.maximum(tokens, 1e-9)
