"""`nt.evaluate`: test sets, answered, judged and counted, without a run directory."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp

from nt_jax.config.evaluation import EvalConfig
from nt_jax.config.test_sets import TestSet
from nt_jax.eval.answering import answer_all
from nt_jax.eval.judges.judge import Judge
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.eval.measure import measure, result_rows
from nt_jax.eval.metrics.result import BASE, TUNED, ResultRow
from nt_jax.eval.prompts import check_room, read_tests
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import Factors


def evaluate(
    model: ChatModel,
    sets: Sequence[str] | Mapping[str, TestSet],
    *,
    judge: Judge | None = None,
    factors: Factors | None = None,
    max_new_tokens: int = 48,
    limit: int | None = None,
    seed: int = 0,
) -> list[ResultRow]:
    """Every number of `model` ("base") on test sets, and with `factors` those of "tuned" beside.

    `sets`: names of shipped sets, or sets of your own by name. `judge`: the phrase judge unless
    given. `limit`: requests of each set. Perplexity is under the untuned model. Rates lie in 0..1,
    entropies are bits; intervals are drawn with `seed`. Raises a DataError for a set that cannot be
    read or a prompt that leaves no room for its answer.
    """
    extra = dict(sets) if isinstance(sets, Mapping) else {}
    config = EvalConfig(
        extra=extra, datasets=tuple(sets), max_new_tokens=max_new_tokens, limit=limit
    )
    judge = judge or PhraseJudge()
    tests = read_tests(config)
    room = model.checkpoint.config.max_positions - config.max_new_tokens
    check_room(model.encode, tests.prompts, room)
    subjects = [ModelUnderTest(BASE, model)]
    if factors is not None:
        shape = model.checkpoint.config.layers, model.checkpoint.config.neurons
        subjects.append(ModelUnderTest(TUNED, model, jnp.asarray(factors.scale_LF(*shape))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for subject in subjects:
            answer_all(subject, tests, config, folder)
        measure(
            [(subject, folder) for subject in subjects], tests, config, folder,
            judges=[(judge.name, lambda: judge)], scorer=model,
        )  # fmt: skip
        return result_rows(folder, seed)[0]
