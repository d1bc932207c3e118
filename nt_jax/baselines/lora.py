"""LoRA: low-rank changes of linear layers, the strong modern alternative.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022, arXiv
2106.09685): W + alpha / rank * A B, A random and B zero at the start. Learned by the descent that
all adapters share (nt_jax/baselines/descent.py). Where that preconditions, A stays as it was
drawn and only B is learned (LoRA-FA, arXiv 2308.03303): at the untouched model, where slopes are
measured, B is zero and no answer feels A, so a preconditioner would know nothing of it.

Defaults: rank 8, alpha 16, the down projections (any linear leaf of TARGETS will do). A and B are
float32. Left out: dropout, biases, a rank per layer.

L layers from the first adapted one on, I inputs, O outputs, r rank.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nt_jax.baselines.adapters import Params
from nt_jax.errors import DataError
from nt_jax.models.config import ModelConfig
from nt_jax.models.transformer import leaf_axes

# Leaf -> how many of its axes after L are inputs.
TARGETS = {f"blocks.{name}": 1 for name in ("attn.q", "attn.k", "attn.v", "mlp.gate", "mlp.up")}
TARGETS |= {"blocks.mlp.down": 1, "blocks.attn.o": 2}


@dataclasses.dataclass(frozen=True)
class Lora:
    """An adapter of nt_jax/baselines/adapters.py: {LEAF/a: [L, I, r], LEAF/b: [L, r, O]}."""

    rank: int = 8
    alpha: float = 16.0
    leaves: tuple[str, ...] = ("blocks.mlp.down",)
    first: int = 0

    def __post_init__(self) -> None:
        """Raises a DataError where there is nothing to adapt."""
        unknown = [name for name in self.leaves if name not in TARGETS]
        if unknown or not self.leaves or self.rank < 1:
            raise DataError(
                f"LoRA cannot adapt {list(self.leaves)} with rank {self.rank}. Choose a rank of 1 "
                f"or more, and among {', '.join(TARGETS)}."
            )

    def targets(self, config: ModelConfig) -> tuple[str, ...]:
        """The adapted leaves."""
        return self.leaves

    def fresh(self, config: ModelConfig, dtype: Any, seed: int) -> Params:
        """A is normal of variance 1 / I, B is zero."""
        params, axes, sizes = {}, leaf_axes(config), config.sizes
        for place, name in enumerate(sorted(self.leaves)):
            shape, cut = [sizes[letter] for letter in axes[name]], 1 + TARGETS[name]
            layers = shape[0] - self.first
            inputs, outputs = math.prod(shape[1:cut]), math.prod(shape[cut:])
            key = jax.random.fold_in(jax.random.key(seed), place)
            noise = jax.random.normal(key, (layers, inputs, self.rank), dtype)
            params[f"{name}/a"] = noise * inputs**-0.5
            params[f"{name}/b"] = jnp.zeros((layers, self.rank, outputs), dtype)
        return params

    def felt(self, name: str) -> bool:
        """Of B alone, while B is zero."""
        return name.endswith("/b")

    def merge(self, leaves: Mapping[str, Array], params: Params) -> dict[str, Array]:
        """W + alpha / rank * A B."""
        new = {}
        for name, leaf in leaves.items():
            product = jnp.einsum("LIr,LrO->LIO", params[f"{name}/a"], params[f"{name}/b"])
            change = self.alpha / self.rank * product.reshape(leaf.shape)
            new[name] = (leaf.astype(change.dtype) + change).astype(leaf.dtype)
        return new

    def at_strength(self, params: Params, strength: float) -> Params:
        """B, and with it the change of weights, times the strength."""
        return {n: strength * x if self.felt(n) else x for n, x in params.items()}
