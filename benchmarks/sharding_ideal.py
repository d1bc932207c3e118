"""What a stage has to send on a (data, model) mesh: the least that its passes need, by a formula.

Along the model axis: the residual stream is summed over the cards after either half of a layer
(s, bytes of the stream of a card's tokens), its cotangent as often on the way back; recomputing a
layer repeats the first sum alone. At the logits sums of one float32 a target, and at their way
back the targets' stream. Along the data axis: the gradient of the P chosen factors.
"""

import dataclasses
from typing import NamedTuple

from benchmarks import h100_answers as answers
from benchmarks import h100_gradients as gradients
from benchmarks.collectives import SHARES
from benchmarks.h100_cases import ITEM
from nt_jax.models.config import ModelConfig

FLOAT, CHOSEN = 4, 2000  # bytes of a float32; neurons of the meta-step


class Ideal(NamedTuple):
    """Bytes that a card has to send, and in words."""

    sent: float
    formula: str


@dataclasses.dataclass(frozen=True)
class Sums:
    """All-reduces of one card on a mesh, in bytes that it sends."""

    config: ModelConfig
    data: int
    model: int

    def over_model(self, size: float) -> float:
        """Of an array of `size` bytes."""
        return SHARES["all-reduce"](self.model) * size

    def over_data(self, size: float) -> float:
        """The same along the data axis."""
        return SHARES["all-reduce"](self.data) * size

    def stream(self, tokens: float) -> float:
        """One sum of the residual stream of tokens that the data axis shares out: s."""
        return self.over_model(tokens / self.data * self.config.width * ITEM)

    def scalars(self, targets: float, each: int) -> float:
        """`each` float32 numbers a target."""
        return self.over_model(targets / self.data * each * FLOAT)


def ideal(stage: str, config: ModelConfig, mesh: tuple[int, int]) -> Ideal:
    """Of a stage at the sizes of benchmarks/h100_programs.py."""
    return STAGES[stage](Sums(config, *mesh))


def _score(sums: Sums) -> Ideal:
    rows, prompt, answer = answers.SCORED
    layers = (2 * sums.config.layers + 1) * sums.stream(rows * (prompt + answer))
    return Ideal(
        layers + sums.scalars(rows * answer, 5),
        "(2 L + 1) s for layers and embedding; largest, its place, sum, own logit of a target",
    )


def _prefill(sums: Sums) -> Ideal:
    rows = 2 * answers.FILL // answers.ROW
    layers = (2 * sums.config.layers + 1) * sums.stream(answers.FILL)
    return Ideal(layers + sums.scalars(rows, 2), "(2 L + 1) s; a row's largest logit and its place")


def _decode(sums: Sums) -> Ideal:
    layers = (2 * sums.config.layers + 1) * sums.stream(64)
    return Ideal(layers + sums.scalars(64, 2), "(2 L + 1) s; a slot's largest logit and its place")


def _slopes(sums: Sums) -> Ideal:
    rows, targets = gradients.SLOPE_ROWS, gradients.SLOPE_ROWS * gradients.SLOPE_TARGETS
    layers = 4 * sums.config.layers * sums.stream(rows * gradients.SLOPE_TOKENS)
    slopes = FLOAT * rows * sums.config.layers * sums.config.neurons / sums.data
    gathered = SHARES["all-gather"](sums.model) * slopes
    return Ideal(
        layers + sums.stream(targets) + sums.scalars(targets, 3) + gathered,
        "4 L s for forward and back; s of the targets; every slope given to all cards of a row",
    )


def _attribution(sums: Sums) -> Ideal:
    tokens = 72 * gradients.ANSWER
    passes = (5 * sums.config.layers + 1) * sums.stream(tokens)
    return Ideal(
        passes + sums.scalars(tokens, 3),
        "5 L s for forward, repeated attention and back; s and 3 numbers of the targets",
    )


def _meta_step(sums: Sums) -> Ideal:
    """Every product with the Hessian is a gradient and its tangent: twice a gradient."""
    inner, sequences = gradients.INNER, max(gradients.STRETCHES, sums.data)
    layers = 5 * sums.config.layers * sums.stream(sequences * gradients.TOKENS)
    targets = sequences * gradients.TARGETS
    one = layers + sums.stream(targets) + sums.scalars(targets, 3)
    factors = CHOSEN * FLOAT
    reduced = (4 * inner + 2) * (sums.over_data(factors) + sums.over_model(factors))
    return Ideal(
        (6 * inner + 2) * one + reduced,
        "(2 K gradients, 2 K products with the Hessian at twice a gradient, 2 outer gradients) x "
        "(5 L s with layers recomputed; s and 3 numbers of the targets); 4 P bytes summed over "
        "either axis after each of 4 K + 2",
    )


STAGES = {
    "attribution": _attribution, "meta-step": _meta_step, "slopes": _slopes,
    "prefill": _prefill, "decode": _decode, "score": _score,
}  # fmt: skip
