"""How far a model has moved from the untuned one: KL over the untuned model's answers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nt_jax.console import progress
from nt_jax.eval.metrics.intervals import bootstrap
from nt_jax.eval.metrics.perplexity import per_token
from nt_jax.eval.metrics.result import (
    Answer,
    Column,
    Measurements,
    ResultRow,
    answer_ids,
    answered,
)

if TYPE_CHECKING:
    from nt_jax.eval.under_test import ModelUnderTest, Scoring
    from nt_jax.generate.chat import ChatModel

NAME = "kl"
COLUMNS = {NAME: Column("KL from the base model, nats a token", "{:.3f}", names_scorer=True)}


def score(asked: "Scoring") -> "tuple[Any, ChatModel] | None":
    """(model -> dataset -> [[nats, tokens] per answer of the base model], that model)."""
    others = [other for other in asked.others if comparable(asked.base, other)]
    if not asked.config.kl or not others:
        return None
    answers = asked.measuring(NAME, asked.base_answers)
    found = {other.name: _scores(asked.base, other, answers) for other in others}
    return found, asked.base.model


def _scores(
    base: "ModelUnderTest", other: "ModelUnderTest", answers: Sequence[Answer]
) -> dict[str, list]:
    from nt_jax.generate.likelihood import answer_kl  # here: rows are made without jax

    model = base.model
    with progress("divergence", len(answers), "answers") as advance:
        pairs = answer_kl(
            (model.lm, base.factors_LF),
            (other.model.lm, other.factors_LF),
            [answered(model, row) for row in answers],
            [answer_ids(model, row) for row in answers],
            on_batch=advance,
        )
    found: dict[str, list] = {}
    for row, pair in zip(answers, pairs.tolist(), strict=True):
        found.setdefault(row["dataset"], []).append(pair)
    return found


def comparable(base: "ModelUnderTest", other: "ModelUnderTest") -> bool:
    """Whether weights alone make the difference, over one vocabulary: else no KL is defined."""
    if base.server is not None or other.server is not None:
        return False  # what a server gives are texts
    return other.intervention is None and same_vocabulary(base.model, other.model)


def same_vocabulary(one: "ChatModel", other: "ChatModel") -> bool:
    """Whether two models speak of the same tokens."""
    if one.chat is other.chat:
        return True
    sizes = [model.checkpoint.config.vocab_size for model in (one, other)]
    return sizes[0] == sizes[1] and one.tokenizer.get_vocab() == other.tokenizer.get_vocab()


def rows(measured: Measurements) -> list[ResultRow]:
    """Mean KL(base || model) in nats per token of the base model's answers."""
    scored = measured.scores.get(NAME)
    if scored is None:
        return []
    return [
        kl_row(dataset, model, np.array(pairs), tuple(scored["by"]), measured.seed)
        for model, datasets in scored["values"].items()
        for dataset, pairs in datasets.items()
    ]


def kl_row(
    dataset: str, model: str, scores: np.ndarray, base: tuple = (None, None), seed: int = 0
) -> ResultRow:
    """`scores` is [answers, (nats, tokens)]; `base` is the base model's name and hash."""
    nats, tokens = scores.sum(axis=0)
    low, high = bootstrap([scores], per_token, seed)
    return ResultRow(dataset, NAME, model, float(nats / tokens), len(scores), low, high, *base)
