"""Adapters: changes of weights by learned parameters, merged into plain weights.

What an adapter offers, how its parameters are one vector, and the model that they make. They are
learned by nt_jax/baselines/descent.py. P learned numbers.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax.models.config import ModelConfig
from nt_jax.models.leaves import get_leaf, with_leaves
from nt_jax.models.transformer import LanguageModel

Params = dict[str, Array]  # of the layers from `first` on, float32 or wider


class Adapter(Protocol):
    """A change of weights by learned parameters: a frozen dataclass, as programs are kept by it."""

    @property
    def first(self) -> int:
        """The lowest layer that it changes."""
        ...

    def targets(self, config: ModelConfig) -> tuple[str, ...]:
        """The leaves that it changes in such a model."""
        ...

    def fresh(self, config: ModelConfig, dtype: Any, seed: int) -> Params:
        """Parameters that change nothing yet."""
        ...

    def felt(self, name: str) -> bool:
        """Whether the fresh model feels this parameter: if not, its slope there is 0 by form."""
        ...

    def merge(self, leaves: Mapping[str, Array], params: Params) -> dict[str, Array]:
        """The targets (of the layers from `first` on) changed: summed wide, rounded once."""
        ...

    def at_strength(self, params: Params, strength: float) -> Params:
        """That share of the way from the untouched weights; 1: the parameters within bounds."""
        ...


@dataclasses.dataclass(frozen=True)
class Form:
    """How a vector of the P learned numbers is an adapter's parameters."""

    adapter: Adapter
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, adapter: Adapter, params: Params) -> "Form":
        """For the parameters of `params`, in the order of their names."""
        return cls(adapter, tuple((name, params[name].shape) for name in sorted(params)))

    @property
    def count(self) -> int:
        """P."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def params(self, theta_P: Array) -> Params:
        """The parameters in a vector."""
        ends = np.cumsum([math.prod(shape) for _, shape in self.shapes])[:-1]
        parts = zip(self.shapes, jnp.split(theta_P, ends), strict=True)
        return {name: part.reshape(shape) for (name, shape), part in parts}

    def vector(self, params: Params) -> Float[Array, " P"]:
        """The vector of parameters."""
        return jnp.concatenate([params[name].reshape(-1) for name, _ in self.shapes])

    def applied(self, lm: LanguageModel, theta_P: Array, fixed: Params) -> LanguageModel:
        """The upper layers `lm` with the parameters at work."""
        leaves = {name: get_leaf(lm, name) for name in self.adapter.targets(lm.config)}
        return with_leaves(lm, self.adapter.merge(leaves, fixed | self.params(theta_P)))


def merged(
    lm: LanguageModel, adapter: Adapter, params: Params, strength: float = 1.0
) -> LanguageModel:
    """The plain model of an adapter; every leaf that it leaves alone is that of `lm`, no copy."""
    leaves = {name: get_leaf(lm, name) for name in adapter.targets(lm.config)}

    @jax.jit
    def changed(leaves: dict[str, Array], params: Params) -> dict[str, Array]:
        upper = {name: leaf[adapter.first :] for name, leaf in leaves.items()}
        new = adapter.merge(upper, adapter.at_strength(params, strength))
        return {name: leaf.at[adapter.first :].set(new[name]) for name, leaf in leaves.items()}

    return with_leaves(lm, changed(leaves, params))
