"""`nt.find_neurons`: attribution and selection in one call, without a run directory."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from nt_jax.attribution.score import Attribution, EncodedExample, Options
from nt_jax.attribution.select import aggregate, select
from nt_jax.config.registry import SCORES, load
from nt_jax.data.prompts import Prompt, text_of
from nt_jax.errors import ConfigError, DataError
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel

# The scores of one example, [L, F] inside; nt_jax/config/registry.py lists ours by name.
Score = Callable[[LanguageModel, EncodedExample, Options], Attribution]
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

    `counts` is how many of each; `first_layer` the lowest layer that may hold one. `score` is a
    name in nt_jax/config/registry.py's SCORES, or a function as those are. Raises a ConfigError
    for counts that the model cannot give or an unknown score, and a DataError where
    there is no example or one does not fit.
    """
    if len(counts) != 2 or min(*counts) < 1 or first_layer < 0:
        raise ConfigError(
            f"counts={counts}, first_layer={first_layer}: counts are two numbers from 1 on, the "
            "safety neurons and the utility neurons; layers count from 0."
        )
    if isinstance(score, str) and score not in SCORES:
        raise ConfigError(f"No score is called '{score}': known are {', '.join(SCORES)}.")
    scored: Score = load(SCORES[score]) if isinstance(score, str) else score
    sides = ((safety, options), (utility, utility_options))
    scores = [mean_scores(model, examples, scored, how) for examples, how in sides]
    return select(*scores, safety=counts[0], utility=counts[1], first_layer=first_layer)[0]


def mean_scores(
    model: ChatModel, examples: Sequence[Example], score: Score, options: Options
) -> Float[np.ndarray, "L F"]:
    """The mean over examples of scores divided by their own largest magnitude, float32."""
    if not examples:
        raise DataError("No examples: attribution needs at least one of each kind.")
    encoded = [encoded_example(model, example) for example in examples]
    return aggregate(np.stack([score(model.lm, each, options).score_LF for each in encoded]))


def encoded_example(model: ChatModel, example: Example) -> EncodedExample:
    """The example as token ids; a DataError where it does not fit the model.

    An empty answer is one, too: its end token is scored.
    """
    answer, room = model.answer_ids(example.answer), model.checkpoint.config.max_positions
    question, attacked = model.encode(example.question), model.encode(example.attacked)
    if (tokens := max(len(question), len(attacked)) + len(answer)) > room:
        raise DataError(
            f"The example '{text_of(example.question)[:60]}' takes {tokens} tokens with its "
            f"answer; the model has room for {room}."
        )
    return EncodedExample(question, attacked, answer)
