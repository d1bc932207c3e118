"""`nt.find_neurons`: attribution and selection in one call, without a run directory."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from nt_jax.attribution.integrated import integrated_gradients
from nt_jax.attribution.score import Attribution, EncodedExample, Options
from nt_jax.attribution.select import aggregate, select
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel

# One example's scores; nt_jax/config/registry.py lists ours.
Score = Callable[[LanguageModel, EncodedExample, Options], Attribution]
UTILITY = Options(target="sum_logprob")


@dataclasses.dataclass(frozen=True)
class Example:
    """What attribution looks at: a question, the same one under attack, and the answer to it."""

    question: str
    attacked: str
    answer: str


def find_neurons(
    model: ChatModel,
    safety: Sequence[Example],
    utility: Sequence[Example],
    counts: tuple[int, int] = (500, 1500),
    score: Score = integrated_gradients,
    *,
    options: Options = Options(),
    utility_options: Options = UTILITY,
    first_layer: int = 0,
) -> NeuronSet:
    """The neurons that carry refusals of `safety` and useful answers to `utility`.

    `counts` is how many of each; `first_layer` the lowest layer that may hold one. Raises a
    ConfigError where the model has fewer.
    """
    sides = ((safety, options), (utility, utility_options))
    scores = [mean_scores(model, examples, score, how) for examples, how in sides]
    return select(*scores, safety=counts[0], utility=counts[1], first_layer=first_layer)[0]


def mean_scores(
    model: ChatModel, examples: Sequence[Example], score: Score, options: Options
) -> Float[np.ndarray, "L F"]:
    """The mean over examples of scores divided by their own largest magnitude, float32."""
    encode = model.encode
    encoded = [
        EncodedExample(encode(e.question), encode(e.attacked), model.answer_ids(e.answer))
        for e in examples
    ]
    return aggregate(np.stack([score(model.lm, each, options).score_LF for each in encoded]))
