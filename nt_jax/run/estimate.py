"""How long the stages of a run may take: their arithmetic over what this machine does in a second.

Tokens are counted as a quarter of the characters, so that no tokenizer is needed. It is a guess to
within a factor of two or so, which the screen corrects by how the first stages went.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from nt_jax.checkpoints.checkpoint import MODEL_DTYPES
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig
from nt_jax.data.prompts import Prompt, text_of
from nt_jax.data.training import Parts
from nt_jax.eval.prompts import Tests
from nt_jax.models.config import ModelConfig
from nt_jax.run.preflight import Inputs
from nt_jax.train.memory import layer_parameters, parameters
from nt_jax.train.own_answers import ATTACKED_SHARE
from nt_jax.train.validate import LOOKS, NEW_TOKENS, Validation

CHARACTERS = 4  # of a token
AROUND = 20  # tokens of a chat template around a message
USED = 0.7  # of an answer's room, in the mean
OVERHEAD = {
    "answers": 5.0,
    "attribute": 10.0,
    "select": 3.0,
    "train": 25.0,
    "export": 3.0,
    "base": 5.0,
    "tuned": 5.0,
    "eval": 5.0,
    "report": 4.0,
}  # fmt: skip  compiling, mostly
DISK = 2e8  # bytes a second that an export writes and reads again
SHARE = {"cpu": 0.8}  # of the speed of large products that a model reaches; elsewhere:
SHARE_ELSEWHERE = 0.35


@dataclasses.dataclass(frozen=True)
class Machine:
    """What one device does in a second."""

    flops: float  # multiplications and additions of large matrix products
    bytes: float  # read and written by a copy

    def seconds(self, flops: float, reads: float = 0.0) -> float:
        """Of work whose products take `flops` and that reads so many bytes of weights."""
        share = SHARE.get(jax.devices()[0].platform, SHARE_ELSEWHERE)
        return max(flops / (share * self.flops), reads / self.bytes)


@functools.cache
def this_machine(dtype: str) -> Machine:
    """Measured: a product and a copy, the best of five (under a second)."""
    side = 768 if jax.devices()[0].platform == "cpu" else 4096
    one = jnp.ones((side, side), dtype)
    wide = jnp.ones((1 << 24,), jnp.float32)
    product, copied = jax.jit(lambda x: x @ x), jax.jit(lambda x: x + jnp.float32(1))
    return Machine(2 * side**3 / _best(product, one), 2 * wide.nbytes / _best(copied, wide))


def _best(work, array: jax.Array) -> float:
    work(array).block_until_ready()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        work(array).block_until_ready()
        times.append(time.perf_counter() - started)
    return min(times)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Multiplications and additions of one token of a model, and the bytes of its weights."""

    layers: float  # forward through all layers
    head: float  # its logits
    weights: float  # bytes
    upper: float  # share of the layers that a gradient goes through

    @classmethod
    def of(cls, model: ModelConfig, dtype: str, first_layer: int) -> "Cost":
        """That of a shape."""
        layers = 2.0 * layer_parameters(model) * model.layers
        head = 2.0 * model.vocab_size * model.width
        weights = float(parameters(model) * MODEL_DTYPES[dtype].itemsize)
        return cls(layers, head, weights, max(0.0, 1 - first_layer / model.layers))

    def forward(self, tokens: float, logits: float) -> float:
        """A pass over so many tokens."""
        return tokens * self.layers + logits * self.head

    def gradient(self, tokens: float, logits: float) -> float:
        """Forward and backward, through the upper layers alone."""
        return tokens * self.layers * (1 + 2 * self.upper) + 3 * logits * self.head


def stage_seconds(
    config: RunConfig, model: ModelConfig, records: Parts, tests: Tests, machine: Machine
) -> dict[str, float]:
    """Expected seconds of every stage, in their order, on the config's devices."""
    cost = Cost.of(model, config.model.dtype, config.neurons.first_layer)
    ways = max(1.0, 0.8 * config.mesh.data * config.mesh.model)
    train, tune = records["train"], config.tune
    bare = mean_tokens([row.prompt for row in (*train.harmful, *train.harmless)])
    around = mean_tokens([template.text for template in train.templates])
    mixed = bare + around / 2  # half of what is shown stands inside an attack

    def answered(count: float, prompt: float, new: float, batch: int) -> float:
        flops = count * cost.forward(prompt + new, new)
        return machine.seconds(flops, count * new / min(batch, max(1, count)) * cost.weights)

    side, new = config.eval.batch_size, USED * config.eval.max_new_tokens
    own = len(train.harmless) * (1 + 1 / ATTACKED_SHARE)
    asked = mean_tokens([row.prompt for row in tests.prompts])
    both = answered(len(tests.prompts), asked, new, side)
    harmless = sum(not row.harmful for row in tests.prompts)
    scored = (
        2 * harmless * cost.forward(asked + new, new) * (config.eval.perplexity + config.eval.kl)
    )
    looked = len(Validation.of(records["validation"], tune.validation_answers or LOOKS))
    looks = tune.epochs // tune.validate_every if tune.validate_every else 0
    looks += 1 + len(tune.strengths).bit_length()
    seen = answered(looked, mixed, NEW_TOKENS, side) * looks if tune.validation_answers else 0.0
    found = {
        "answers": answered(own, mixed, tune.answer_tokens, side),
        "attribute": machine.seconds(attribution(config, model, cost, mixed)),
        "select": 0.0,
        "train": machine.seconds(tuning(config, records, cost, mixed)) + seen,
        "export": 3 * cost.weights * ways / DISK,
        "base": both,
        "tuned": both,
        "eval": machine.seconds(scored),
        "report": 0.0,
    }
    return {name: seconds / ways + OVERHEAD[name] for name, seconds in found.items()}


def expected_seconds(config: RunConfig, inputs: Inputs) -> dict[str, float]:
    """`stage_seconds` of a run on the devices here."""
    size = inputs.model.checkpoint.config
    machine = this_machine(config.model.dtype)
    return stage_seconds(config, size, inputs.records, inputs.tests, machine)


def attribution(config: RunConfig, model: ModelConfig, cost: Cost, prompt: float) -> float:
    """Operations of the stage attribute."""
    wanted = config.attribution
    if wanted.score == CONTRASTIVE:
        answer = config.tune.answer_tokens
        rows = 1.25 * config.tune.metric_requests  # own answers twice: their likelihood and drift
        return rows * cost.gradient(prompt + answer, answer)
    examples = 2 * len(wanted.attack_types) * wanted.examples_per_type
    paths = model.layers / 2 if wanted.path == "layer" else 1  # a path begins at its own layer
    suffix = wanted.answer_tokens + 1
    return examples * wanted.steps * paths * 3 * cost.forward(suffix, suffix)


def tuning(config: RunConfig, records: Parts, cost: Cost, prompt: float) -> float:
    """Operations of Algorithm 1: two sets of each batch, the inner one three times over."""
    tune, train = config.tune, records["train"]
    every = (len(train.harmful) + len(train.harmless)) / 2
    outer, inner = (2 * (size or every) for size in (tune.global_batch, tune.local_batch))
    if not tune.inner_steps:
        inner = 0.0
    outer *= 1.3 if tune.margin_weight else 1.0
    if tune.outer == "regression":
        outer = tune.metric_requests
    rows = outer + inner * tune.inner_steps * (3 if tune.order == 2 else 1)
    answer = tune.answer_tokens
    return tune.epochs * rows * cost.gradient(prompt + answer, answer)


def mean_tokens(prompts: Sequence[Prompt]) -> float:
    """Of a chat that asks one of these, about."""
    if not prompts:
        return float(AROUND)
    characters = sum(len(text_of(prompt)) for prompt in prompts) / len(prompts)
    return AROUND + characters / CHARACTERS
