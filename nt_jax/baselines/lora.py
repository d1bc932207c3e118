"""LoRA on the data of NeuronTune, by plain descent: the strong modern alternative.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022, arXiv
2106.09685): W + alpha / rank * A B, A random and B zero at the start. Loss: safety_weight * NLL of
refusals + (1 - safety_weight) * NLL of good answers, as in NeuronTune's outer loss but without its
margin and KL terms, on batches drawn alike from all of its data (nothing is kept for an inner
loop); Adam on a clipped gradient.

Defaults: rank 8, alpha 16, all down projections (any linear leaf of TARGETS will do), learning
rate 1e-3, 100 steps. The forward pass runs on the merged weights, so that what is trained is what
is exported: in bfloat16 models that includes the rounding of the merge, through which gradients
pass as if it were not there; the price is a float32 copy of the targets (7.5 GB for the down
projections of an 8 B model). A and B are float32. Left out: dropout, biases, a rank per layer.

L layers, I inputs, O outputs, r rank.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from nt_jax.data.packing import PackedBatch
from nt_jax.errors import DataError, RunError
from nt_jax.mesh import sharding
from nt_jax.models.leaves import get_leaf, with_leaves
from nt_jax.models.precision import wide_dtype
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.maml import make_optimiser
from nt_jax.train.objectives import nll, over_stretches

# Leaf -> how many of its axes after L are inputs.
TARGETS = {f"blocks.{name}": 1 for name in ("attn.q", "attn.k", "attn.v", "mlp.gate", "mlp.up")}
TARGETS |= {"blocks.mlp.down": 1, "blocks.attn.o": 2}
Adapter = dict[str, dict[str, Array]]  # leaf -> {"a": [L, I, r], "b": [L, r, O]}
Sides = tuple[PackedBatch, PackedBatch]  # refusals, good answers, as Algorithm 1's global sets
BatchAt = Callable[[int], Sides]  # of a step


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """The settings of a fit."""

    rank: int = 8
    alpha: float = 16.0
    targets: Sequence[str] = ("blocks.mlp.down",)
    learning_rate: float = 1e-3
    steps: int = 100
    safety_weight: float = 0.5
    token_decay: float = 1.0  # token t of an answer weighs token_decay**t
    clip_norm: float | None = 1.0
    seed: int = 0
    remat: bool = False


@functools.cache
def optimiser(clip_norm: float | None) -> optax.GradientTransformation:
    """Adam's direction of a clipped gradient; one object for all fits: a step is one program."""
    return make_optimiser("adam", clip_norm)


def init_adapter(lm: LanguageModel, options: LoraOptions) -> Adapter:
    """An adapter that changes nothing yet: A is normal of variance 1 / I, B is zero."""
    unknown = [name for name in options.targets if name not in TARGETS]
    if unknown or not options.targets or min(options.rank, options.steps) < 1:
        raise DataError(
            f"LoRA cannot adapt {list(options.targets)} with rank {options.rank} in "
            f"{options.steps} steps. Choose 1 or more of each, and among {', '.join(TARGETS)}."
        )
    adapter = {}
    for place, name in enumerate(sorted(options.targets)):
        leaf = get_leaf(lm, name)
        layers, cut = leaf.shape[0], 1 + TARGETS[name]
        inputs, outputs = math.prod(leaf.shape[1:cut]), math.prod(leaf.shape[cut:])
        key, wide = jax.random.fold_in(jax.random.key(options.seed), place), wide_dtype(leaf.dtype)
        noise = jax.random.normal(key, (layers, inputs, options.rank), wide)
        b = jnp.zeros((layers, options.rank, outputs), wide)
        adapter[name] = {"a": noise * inputs**-0.5, "b": b}
    return jax.device_put(adapter, sharding(lm.mesh, ""))


def merge(
    leaves: Mapping[str, Array], adapter: Adapter, strength: float | Array
) -> dict[str, Array]:
    """W + strength * A B of each target: summed in float32, rounded once.

    strength is alpha / rank.
    """
    new = {}
    for name, factors in adapter.items():
        product = jnp.einsum("LIr,LrO->LIO", factors["a"], factors["b"])
        product = product.reshape(leaves[name].shape)
        new[name] = leaves[name].astype(product.dtype) + strength * product
    return {name: leaf.astype(leaves[name].dtype) for name, leaf in new.items()}


def merged(lm: LanguageModel, adapter: Adapter, strength: float | Array) -> LanguageModel:
    """The plain model of an adapter; every other leaf is that of `lm`, not a copy."""
    leaves = {name: get_leaf(lm, name) for name in adapter}
    return with_leaves(lm, jax.jit(merge)(leaves, adapter, strength))


def loss(
    adapter: Adapter, lm: LanguageModel, batch: PackedBatch, strength: Array, decay: Array,
    remat: bool = False,
) -> Array:  # fmt: skip
    """NLL of a stretch's answers under the merged model, in nats per token; stretches add up."""
    return nll(merged(lm, adapter, strength), lm.ones_LF, batch, decay=decay, remat=remat)


@functools.partial(jax.jit, static_argnames=("adam", "remat"))
def lora_step(
    adapter: Adapter, moments: optax.OptState, lm: LanguageModel, sides: Sides,
    numbers: dict[str, Array], *, adam: optax.GradientTransformation, remat: bool,
) -> tuple[Adapter, optax.OptState, dict[str, Array]]:  # fmt: skip
    """One update: (new adapter, moments, losses before it)."""
    slope = jax.value_and_grad(loss)
    rule = lambda b: slope(adapter, lm, b, numbers["strength"], numbers["decay"], remat)  # noqa: E731
    (safe, safe_g), (useful, useful_g) = (over_stretches(rule, side) for side in sides)
    weight = numbers["safety_weight"]
    mix = lambda s, u: weight * s + (1 - weight) * u  # noqa: E731
    direction, moments = adam.update(jax.tree.map(mix, safe_g, useful_g), moments)
    adapter = jax.tree.map(lambda x, way: x - numbers["rate"] * way, adapter, direction)
    return adapter, moments, {"safety": safe, "utility": useful, "total": mix(safe, useful)}


def train_lora(
    lm: LanguageModel, batch_at: BatchAt, options: LoraOptions
) -> Iterator[tuple[Adapter, dict[str, float]]]:
    """(the adapter, losses before the update) after each step: for choosing by validation."""
    adapter, adam = init_adapter(lm, options), optimiser(options.clip_norm)
    moments = jax.device_put(adam.init(adapter), sharding(lm.mesh, ""))
    numbers = {"strength": options.alpha / options.rank, "decay": options.token_decay}
    numbers |= {"safety_weight": options.safety_weight, "rate": options.learning_rate}
    wide, how = jax.tree.leaves(adapter)[0].dtype, {"adam": adam, "remat": options.remat}
    numbers = {name: jnp.asarray(value, wide) for name, value in numbers.items()}
    for step in range(options.steps):
        adapter, moments, parts = lora_step(adapter, moments, lm, batch_at(step), numbers, **how)
        losses = {name: float(value) for name, value in parts.items()}
        if not np.isfinite(losses["total"]):
            raise RunError(f"LoRA diverged in step {step + 1}. Lower its learning rate.")
        yield adapter, losses
