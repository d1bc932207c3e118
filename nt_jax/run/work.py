"""What work costs in operations and bytes, and what a machine does of both in a second."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from nt_jax.checkpoints.checkpoint import MODEL_DTYPES
from nt_jax.config.schema import MeshConfig
from nt_jax.models.config import ModelConfig
from nt_jax.models.footprint import layer_parameters, parameters

SHARE = {"cpu": 0.8}  # of the speed of large products that a model reaches; elsewhere:
SHARE_ELSEWHERE = 0.35
TOGETHER = 0.8  # of several devices' products, as they wait for each other


@dataclasses.dataclass(frozen=True)
class Machine:
    """What one device does in a second."""

    flops: float  # multiplications and additions of large matrix products
    bytes: float  # read and written by a copy
    link: float = math.inf  # bytes sent to another device
    platform: str = ""  # of these devices where others are meant than those here

    def seconds(self, flops: float, reads: float = 0.0, sent: float = 0.0) -> float:
        """Of work of one device: products of `flops`, so many bytes read and sent to others."""
        share = SHARE.get(self.platform or jax.devices()[0].platform, SHARE_ELSEWHERE)
        return max(flops / (share * self.flops), reads / self.bytes) + sent / self.link


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
class Work:
    """What some tokens cost in all, however many devices share it."""

    flops: float
    weights: float = 0.0  # bytes read: a device reads its part of the weights, whatever its tokens
    stream: float = 0.0  # bytes that devices which share the layers have to sum
    columns: float = 0.0  # bytes read of the cache

    def __add__(self, other: "Work") -> "Work":
        return self._each(lambda mine, theirs: mine + theirs, other)

    def __mul__(self, times: float) -> "Work":
        return self._each(lambda mine, _: mine * times, self)

    def _each(self, rule: Callable[[float, float], float], other: "Work") -> "Work":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Work(*(rule(*pair) for pair in pairs))

    def seconds(self, machine: Machine, mesh: MeshConfig) -> float:
        """On a mesh: a sum over `model` devices sends 2 (model - 1) / model of its bytes.

        Along fsdp a device is sent what it lacks of the weights that it reads.
        """
        both = mesh.devices
        busy = both if both == 1 else max(1.0, TOGETHER * both)
        reads = self.weights / mesh.model + self.columns / both
        sent = self.stream / mesh.rows * 2 * (mesh.model - 1) / mesh.model
        sent += self.weights / mesh.model * (mesh.fsdp - 1) / mesh.fsdp
        return machine.seconds(self.flops / busy, reads, sent)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Multiplications and additions of one token of a model, and the bytes of its weights."""

    layers: float  # forward through all layers
    head: float  # its logits
    weights: float  # bytes
    column: float  # bytes of a token's keys and values
    stream: float  # bytes of its residual stream after each half of every layer
    upper: float  # share of the layers that a gradient goes through

    @classmethod
    def of(cls, model: ModelConfig, dtype: str, first_layer: int) -> "Cost":
        """That of a shape."""
        item = MODEL_DTYPES[dtype].itemsize
        layers = 2.0 * layer_parameters(model) * model.layers
        head = 2.0 * model.vocab_size * model.width
        column = 2.0 * item * model.layers * model.kv_heads * model.head_dim
        stream = 2.0 * item * model.layers * model.width
        upper = max(0.0, 1 - first_layer / model.layers)
        return cls(layers, head, float(parameters(model) * item), column, stream, upper)

    def forward(self, tokens: float, logits: float) -> "Work":
        """A pass over so many tokens."""
        return Work(tokens * self.layers + logits * self.head, 0.0, tokens * self.stream)

    def gradient(self, tokens: float, logits: float) -> "Work":
        """Forward and backward, through the upper layers alone."""
        flops = tokens * self.layers * (1 + 2 * self.upper) + 3 * logits * self.head
        return Work(flops, 0.0, tokens * self.stream * (1 + self.upper))

    def answers(self, count: float, prompt: float, new: float, batch: int) -> "Work":
        """So many answers, `batch` at a time: weights and columns are read for every token."""
        passed = self.forward(count * (prompt + new), count * new)
        steps = count * new / min(batch, max(1, count))
        columns = count * new * (prompt + new / 2) * self.column
        return dataclasses.replace(passed, weights=steps * self.weights, columns=columns)
