"""Perplexity: what a scoring model says about answers.

The scorer is the untuned model (or eval.scorer), so a tuned model cannot grade itself.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from nt_jax.console import progress
from nt_jax.eval.metrics.intervals import bootstrap
from nt_jax.eval.metrics.result import Column, Measurements, ResultRow, answer_ids, answered

if TYPE_CHECKING:
    from nt_jax.eval.under_test import Scoring
    from nt_jax.generate.chat import ChatModel

NAME = "perplexity"
COLUMNS = {NAME: Column("perplexity", "{:.2f}", names_scorer=True)}


def score(asked: "Scoring") -> "tuple[Any, ChatModel] | None":
    """(dataset -> model -> [[nats, tokens] per answer], who scored); None if not wanted."""
    from nt_jax.generate.likelihood import answer_nll  # here: rows are made without jax

    scorer, rows = asked.scorer, asked.measuring(NAME, asked.answers)
    if not asked.config.perplexity or scorer is None or not rows:
        return None
    texts = [answer_ids(scorer, row) for row in rows]
    prompts = [answered(scorer, row) for row in rows]
    with progress(NAME, len(rows), "answers") as advance:
        pairs = answer_nll(
            scorer.lm, scorer.lm.ones_LF, prompts, texts, batch_size=scorer.batch_size,
            on_batch=advance,
        )  # fmt: skip
    found: dict[str, dict[str, list]] = {}
    for row, pair in zip(rows, pairs.tolist(), strict=True):
        found.setdefault(row["dataset"], {}).setdefault(row["model"], []).append(pair)
    return found, scorer


def rows(measured: Measurements) -> list[ResultRow]:
    """Per test set and model, with a bootstrap interval over answers."""
    scored = measured.scores.get(NAME)
    if scored is None:
        return []
    return [
        perplexity_row(dataset, model, np.array(pairs), tuple(scored["by"]), measured.seed)
        for dataset, models in scored["values"].items()
        for model, pairs in models.items()
    ]


def perplexity(scores: np.ndarray) -> float:
    """Exponential of the mean negative log-likelihood per token of [answers, (nats, tokens)]."""
    nats, tokens = scores.sum(axis=0)
    return float(np.exp(nats / tokens)) if tokens else float("nan")


def perplexity_row(
    dataset: str, model: str, scores: np.ndarray, scorer: tuple = (None, None), seed: int = 0
) -> ResultRow:
    """One model's perplexity on one dataset; `scorer` is the scoring model's name and hash."""
    value = perplexity(scores)
    low, high = bootstrap([scores], lambda means: np.exp(per_token(means)), seed)
    return ResultRow(dataset, NAME, model, value, len(scores), low, high, *scorer)


def per_token(means: list[np.ndarray]) -> np.ndarray:
    """Nats per token of the means [2, resamples] of (nats, tokens)."""
    nats, tokens = means[0]
    return nats / np.maximum(tokens, 1e-9)
