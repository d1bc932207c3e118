"""(IA)^3: one learned factor for every neuron, and for outputs of the key and value projections.

Source: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context
Learning" (NeurIPS 2022, arXiv 2205.05638): vectors that begin at 1; l_k and l_v scale what the key
and value projections give, l_ff what enters the second layer of the feed-forward part. PEFT's
default for LLaMA models is all three (k_proj, v_proj, down_proj, the last as feed-forward): FULL.
NeuronTune's factors are those of down_proj (DOWN) at its chosen neurons. All are merged into the
weights exactly, biases of the projections included. Learned by the descent that all adapters share
(nt_jax/baselines/descent.py), within the bounds that bind NeuronTune's factors.

L layers from the first adapted one on, F neurons, D model width, K kv heads, H head dim.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from nt_jax.baselines.adapters import Params
from nt_jax.models.config import ModelConfig
from nt_jax.models.transformer import leaf_axes

DOWN: tuple[str, ...] = ("mlp.down",)
FULL: tuple[str, ...] = ("attn.k", "attn.v", "mlp.down")  # PEFT's for model type llama
# Module -> letters of its vector: the outputs of a projection, the inputs of the last one.
VECTORS = {"attn.k": "KH", "attn.v": "KH", "mlp.down": "F"}


@dataclasses.dataclass(frozen=True)
class Ia3:
    """An adapter of nt_jax/baselines/adapters.py: {"blocks.MODULE": [L, ...] of VECTORS}."""

    modules: tuple[str, ...] = DOWN
    bounds: tuple[float, float] = (-math.inf, math.inf)
    first: int = 0

    def targets(self, config: ModelConfig) -> tuple[str, ...]:
        """The weights, and the biases of projections that have one."""
        names = [f"blocks.{module}" for module in self.modules]
        every = leaf_axes(config)
        return (*names, *(f"{name}_bias" for name in names if f"{name}_bias" in every))

    def fresh(self, config: ModelConfig, dtype: Any, seed: int) -> Params:
        """Ones."""
        layers, sizes = config.layers - self.first, config.sizes
        shapes = {m: [sizes[letter] for letter in VECTORS[m]] for m in self.modules}
        return {f"blocks.{m}": jnp.ones((layers, *shape), dtype) for m, shape in shapes.items()}

    def felt(self, name: str) -> bool:
        """Always."""
        return True

    def merge(self, leaves: Mapping[str, Array], params: Params) -> dict[str, Array]:
        """Weights and biases times their factors."""
        new = {}
        for name, leaf in leaves.items():
            factor = params[name.removesuffix("_bias")]
            if name == "blocks.mlp.down":
                factor = factor[:, :, None]  # of [L, F, D]
            elif not name.endswith("_bias"):
                factor = factor[:, None]  # of [L, D, K, H]
            new[name] = (leaf.astype(factor.dtype) * factor).astype(leaf.dtype)
        return new

    def at_strength(self, params: Params, strength: float) -> Params:
        """The share `strength` of the way from 1, within the bounds."""
        return {n: jnp.clip(1 + strength * (x - 1), *self.bounds) for n, x in params.items()}
