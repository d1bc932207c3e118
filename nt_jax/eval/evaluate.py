"""`nt.evaluate`: test sets, answered, judged and counted, without a run directory."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nt_jax.config.evaluation import EvalConfig
from nt_jax.config.test_sets import TestSet
from nt_jax.errors import ConfigError
from nt_jax.eval.answering import answer_all, check_tests
from nt_jax.eval.judges.judge import Judge, open_judge
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.eval.measure import measure, result_rows
from nt_jax.eval.metrics.result import BASE, ResultRow
from nt_jax.eval.prompts import read_tests
from nt_jax.eval.under_test import ModelUnderTest, tuned_model
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import Factors


def evaluate(
    model: ChatModel,
    sets: str | Sequence[str] | Mapping[str, TestSet],
    *,
    judge: Judge | str | None = None,
    factors: Factors | None = None,
    max_new_tokens: int = 48,
    limit: int | None = None,
    system_prompt: str | None = None,
    likelihoods: bool = True,
    seed: int = 0,
) -> list[ResultRow]:
    """Every number of `model` ("base") on test sets, and with `factors` those of "tuned" beside.

    `sets`: names of shipped sets, or sets of your own by name. `judge`: the phrase judge unless
    given, or a spec as eval.judges has it. `limit`: requests of each set. `system_prompt`: put
    before every prompt without a system message, in place of that of `model`. `likelihoods`: also
    perplexity and KL of answers to harmless requests, under the untuned model. Rates lie in 0..1,
    entropies are bits; intervals are drawn with `seed`. Raises a ConfigError for an unknown set or
    a number out of bounds, and a DataError for a set that cannot be read or a prompt that leaves no
    room for its answer.
    """
    scored = {"perplexity": likelihoods, "kl": likelihoods}
    config = _settings(sets, max_new_tokens=max_new_tokens, limit=limit, **scored)
    judge = open_judge(judge) if isinstance(judge, str) else judge or PhraseJudge()
    tests = read_tests(config)
    model = model if system_prompt is None else model.under(system_prompt)
    check_tests(model, tests, config)
    subjects = [ModelUnderTest(BASE, model)]
    if factors is not None:
        subjects.append(tuned_model(model, factors))
    judges = [(judge.name, lambda: judge)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for subject in subjects:
            answer_all(subject, tests, config, folder)
        answered = [(subject, folder) for subject in subjects]
        scorer = model if likelihoods else None
        measure(answered, tests, config, folder, judges=judges, scorer=scorer)
        return result_rows(folder, seed)[0]


def _settings(sets: str | Sequence[str] | Mapping[str, TestSet], **settings: Any) -> EvalConfig:
    """The settings of an evaluation; the first mistake in them as a ConfigError."""
    names = (sets,) if isinstance(sets, str) else tuple(sets)
    extra = dict(sets) if isinstance(sets, Mapping) else {}
    try:
        return EvalConfig(extra=extra, datasets=names, **settings)
    except ValidationError as error:
        first = error.errors()[0]
        known = first.get("ctx", {}).get("known")
        hint = f": known are {', '.join(known)}" if known else ""
        raise ConfigError(f"{first['loc'][0]}: {first['input']!r} {first['msg']}{hint}") from None
