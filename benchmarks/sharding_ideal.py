"""What a stage has to send on a mesh: the least that its passes need, by a formula.

Along the model axis: the residual stream is summed over the cards after either half of a layer
(s, bytes of the stream of a card's tokens), its cotangent as often on the way back; recomputing a
layer repeats the first sum alone. At the logits sums of one float32 a target, and at their way
back the targets' stream. Along the data axis: the gradient of the P chosen factors. Along fsdp,
whose cards have rows of their own as well: what a card lacks of the weights of layers and head (w),
once a pass, forward or back; a layer that is recomputed is so on the way back.
"""

import dataclasses
from typing import NamedTuple

from benchmarks import h100_answers as answers
from benchmarks import h100_gradients as gradients
from benchmarks.collectives import SHARES
from benchmarks.h100_cases import ITEM
from nt_jax.models.config import ModelConfig
from nt_jax.models.footprint import layer_parameters

FLOAT, CHOSEN = 4, 2000  # bytes of a float32; neurons of the meta-step


class Ideal(NamedTuple):
    """Bytes that a card has to send, and in words."""

    sent: float
    formula: str


@dataclasses.dataclass(frozen=True)
class Sums:
    """All-reduces of one card on a mesh, in bytes that it sends."""

    config: ModelConfig
    data: int  # parts that rows are cut in
    model: int
    fsdp: int = 1

    @property
    def weights(self) -> float:
        """What comes from others of all layers and the head, once: w."""
        whole = (layer_parameters(self.config) * self.config.layers + self._head) * ITEM
        return SHARES["all-gather"](self.fsdp) * whole / self.model

    @property
    def embedding(self) -> float:
        """The same of the embedding."""
        return SHARES["all-gather"](self.fsdp) * self._head * ITEM / self.model

    @property
    def _head(self) -> int:
        return self.config.vocab_size * self.config.width

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


def ideal(stage: str, config: ModelConfig, mesh: tuple[int, ...]) -> Ideal:
    """Of a stage at the sizes of benchmarks/h100_programs.py on a (data, model[, fsdp]) mesh."""
    data, model, fsdp = (*mesh, 1)[:3]
    return STAGES[stage](Sums(config, data * fsdp, model, fsdp))


def _score(sums: Sums) -> Ideal:
    rows, prompt, answer = answers.SCORED
    layers = (2 * sums.config.layers + 1) * sums.stream(rows * (prompt + answer))
    return Ideal(
        layers + sums.scalars(rows * answer, 5) + sums.weights + sums.embedding,
        "(2 L + 1) s for layers and embedding; largest, its place, sum, own logit of a target; w",
    )


def _prefill(sums: Sums) -> Ideal:
    rows = 2 * answers.FILL // answers.ROW
    layers = (2 * sums.config.layers + 1) * sums.stream(answers.FILL)
    return Ideal(
        layers + sums.scalars(rows, 2) + sums.weights + sums.embedding,
        "(2 L + 1) s; a row's largest logit and its place; w",
    )


def _decode(sums: Sums) -> Ideal:
    layers = (2 * sums.config.layers + 1) * sums.stream(64)
    return Ideal(
        layers + sums.scalars(64, 2) + sums.weights + sums.embedding,
        "(2 L + 1) s; a slot's largest logit and its place; w",
    )


def _slopes(sums: Sums) -> Ideal:
    rows, targets = gradients.SLOPE_ROWS, gradients.SLOPE_ROWS * gradients.SLOPE_TARGETS
    layers = 4 * sums.config.layers * sums.stream(rows * gradients.SLOPE_TOKENS)
    slopes = FLOAT * rows * sums.config.layers * sums.config.neurons / sums.data
    gathered = SHARES["all-gather"](sums.model) * slopes
    return Ideal(
        layers + sums.stream(targets) + sums.scalars(targets, 3) + gathered + 2 * sums.weights,
        "4 L s for forward and back; s of the targets; every slope given to all cards of a row; "
        "2 w",
    )


def _attribution(sums: Sums) -> Ideal:
    tokens = 72 * gradients.ANSWER
    passes = (5 * sums.config.layers + 1) * sums.stream(tokens)
    return Ideal(
        passes + sums.scalars(tokens, 3) + 2 * sums.weights,
        "5 L s for forward, repeated attention and back; s and 3 numbers of the targets; 2 w",
    )


def _meta_step(sums: Sums) -> Ideal:
    """Every product with the Hessian is a gradient and its tangent: twice a gradient."""
    inner, sequences = gradients.INNER, max(gradients.STRETCHES, sums.data)
    layers = 5 * sums.config.layers * sums.stream(sequences * gradients.TOKENS)
    targets = sequences * gradients.TARGETS
    one = layers + sums.stream(targets) + sums.scalars(targets, 3)
    factors = sums.over_data(CHOSEN * FLOAT) + sums.over_model(CHOSEN * FLOAT)
    stretches = max(1, gradients.STRETCHES // sums.data)
    each = factors + stretches * 2 * sums.weights
    return Ideal(
        (6 * inner + 2) * one + (4 * inner + 2) * each,
        "(2 K gradients, 2 K products with the Hessian at twice a gradient, 2 outer gradients) x "
        "(5 L s with layers recomputed; s and 3 numbers of the targets); 4 K + 2 times: 4 P bytes "
        "summed over either axis, 2 w a stretch",
    )


STAGES = {
    "attribution": _attribution, "meta-step": _meta_step, "slopes": _slopes,
    "prefill": _prefill, "decode": _decode, "score": _score,
}  # fmt: skip
