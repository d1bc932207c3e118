"""Perplexity of answers under a named scorer: how natural they read to it.

The scorer is the untuned model, so a tuned model cannot grade itself.
"""

import numpy as np

from nt_jax.eval.intervals import bootstrap
from nt_jax.eval.rows import ResultRow


def perplexity(scores: np.ndarray) -> float:
    """Exponential of the mean negative log-likelihood per token of [answers, (nats, tokens)]."""
    nats, tokens = scores.sum(axis=0)
    return float(np.exp(nats / tokens)) if tokens else float("nan")


def perplexity_row(dataset: str, model: str, scores: np.ndarray, seed: int = 0) -> ResultRow:
    """One model's perplexity on one dataset, with a bootstrap interval over answers."""

    def statistic(means: list[np.ndarray]) -> np.ndarray:
        nats, tokens = means[0]
        return np.exp(nats / np.maximum(tokens, 1e-9))

    low, high = bootstrap([scores], statistic, seed)
    return ResultRow(dataset, "perplexity", model, perplexity(scores), len(scores), low, high)
