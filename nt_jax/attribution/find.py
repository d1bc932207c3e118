"""`nt.find_neurons`: attribution and selection in one call, without a run directory."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from nt_jax.attribution.own_score import Score, load_score, own_scores
from nt_jax.attribution.score import Attribution, EncodedExample, Options
from nt_jax.attribution.select import aggregate, check_counts, select
from nt_jax.attribution.signal import check_example, check_scores
from nt_jax.config.registry import EXAMPLE_SCORES, SCORES, load
from nt_jax.data.prompts import Prompt, text_of
from nt_jax.errors import ConfigError, DataError
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel

# The scores of one example: ours, which nt_jax/config/registry.py lists by name.
ExampleScore = Callable[[LanguageModel, EncodedExample, Options], Attribution]
SetScore = Callable[[LanguageModel, Sequence[EncodedExample]], np.ndarray]  # [L, F]
UTILITY = Options(target="sum_logprob")


@dataclasses.dataclass(frozen=True)
class Example:
    """What attribution looks at: a question, the same one under attack, and the answer to it."""

    question: Prompt
    attacked: Prompt
    answer: str


def find_neurons(
    model: ChatModel,
    safety: Sequence[Example],
    utility: Sequence[Example],
    counts: tuple[int, int] = (500, 1500),
    score: Score | str = "integrated",
    *,
    options: Options = Options(),
    utility_options: Options = UTILITY,
    first_layer: int = 0,
) -> NeuronSet:
    """The neurons that carry refusals of `safety` and useful answers to `utility`.

    `counts` is how many of each; `first_layer` the lowest layer that may hold one. `score` is
    integrated or gradient (with `options` and `utility_options`), or your own: a function of
    (model.lm, all encoded examples of a set) to float32 [L, F], or MODULE:FUNCTION
    (nt_jax/attribution/own_score.py). Raises a ConfigError for counts that the model cannot give or
    an unknown score, and a DataError where there is no example, one does not fit, your score gives
    something else, or a score is the same for every neuron.
    """
    if len(counts) != 2 or min(*counts) < 1 or first_layer < 0:
        raise ConfigError(
            f"counts={counts}, first_layer={first_layer}: counts are two numbers from 1 on, the "
            "safety neurons and the utility neurons; layers count from 0."
        )
    if not safety or not utility:
        raise DataError("No examples: attribution needs at least one of each kind.")
    size = model.checkpoint.config
    check_counts(*counts, (size.layers, size.neurons), first_layer)
    rules = [set_score(score, how) for how in (options, utility_options)]
    whole = callable(score) or score not in EXAMPLE_SCORES  # ours read the beginning of an answer
    read = [None if whole else how.answer_tokens for how in (options, utility_options)]
    encoded = [
        [encoded_example(model, example, name, tokens) for example in examples]
        for name, examples, tokens in zip(
            ("safety", "utility"), (safety, utility), read, strict=True
        )
    ]
    scores = [rule(model.lm, examples) for rule, examples in zip(rules, encoded, strict=True)]
    for name, score_LF in zip(("safety", "utility"), scores, strict=True):
        check_scores(score_LF, f"the scores of the {name} examples")
    return select(*scores, safety=counts[0], utility=counts[1], first_layer=first_layer)[0]


def set_score(score: Score | str, options: Options) -> SetScore:
    """What scores a set: one of ours over its examples, or the user's own, its result checked."""
    ours = {name: load(SCORES[name]) for name in EXAMPLE_SCORES}
    if isinstance(score, str) and score in ours:
        return over_examples(ours[score], options)
    for name, function in ours.items():
        if score is function:
            raise ConfigError(f"score: {function.__name__} is for one example. Say score='{name}'.")
    own = load_score(score) if isinstance(score, str) else score
    return functools.partial(own_scores, own)


def over_examples(score: ExampleScore, options: Options) -> SetScore:
    """The score of a set that a score of single examples makes.

    It is the mean over examples of scores divided by their own largest magnitude. Raises a
    DataError where an example's scores are not finite, or rounding alone.
    """

    def scored(lm: LanguageModel, examples: Sequence[EncodedExample]) -> np.ndarray:
        results = [score(lm, example, options) for example in examples]
        for place, (example, result) in enumerate(zip(examples, results, strict=True)):
            integral = score is load(SCORES["integrated"])
            check_example(lm, example, result, f"{example.set} example {place}", integral)
        return aggregate(np.stack([result.score_LF for result in results]))

    return scored


def encoded_example(
    model: ChatModel, example: Example, name: str, read: int | None = None
) -> EncodedExample:
    """The example of set `name` as token ids; a DataError where it does not fit the model.

    `read`: so many tokens of its answer are read, None for all. An empty answer is one, too: its
    end token is scored.
    """
    answer, room = model.answer_ids(example.answer), model.checkpoint.config.max_positions
    question, attacked = model.encode(example.question), model.encode(example.attacked)
    if (tokens := max(len(question), len(attacked)) + len(answer[:read])) > room:
        raise DataError(
            f"The example '{text_of(example.question)[:60]}' takes {tokens} tokens with its "
            f"answer; the model has room for {room}."
        )
    return EncodedExample(question, attacked, answer, name)
