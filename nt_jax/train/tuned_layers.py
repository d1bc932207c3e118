"""The part of the model that tuning runs: the layers from the first one with a chosen neuron on.

No factor lies below, so those layers say the same in every loss: they run once per batch, forward
only, and neither gradients nor products with the Hessian go through them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax.data.packing import PackedBatch
from nt_jax.mesh import put, sharding
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.objectives import residual_at, residual_behind
from nt_jax.train.theta import place, scatter


@dataclasses.dataclass(frozen=True)
class TunedLayers:
    """What losses of the factors need."""

    whole: LanguageModel
    lm: LanguageModel  # the layers from `first` on
    neurons: NeuronSet  # layers counted from `first`, as jax arrays
    first: int

    @classmethod
    def of(cls, lm: LanguageModel, neurons: NeuronSet) -> "TunedLayers":
        """The layers of `lm` from the first one that holds a chosen neuron."""
        return cls.above(lm, int(np.min(neurons.layer_P)), neurons)

    @classmethod
    def above(cls, lm: LanguageModel, first: int, neurons: NeuronSet) -> "TunedLayers":
        """The layers of `lm` from `first` on; none of these neurons may lie below."""
        above = dataclasses.replace(neurons, layer_P=np.asarray(neurons.layer_P) - first)
        return cls(lm, lm.above(first), place(above), first)

    @property
    def count(self) -> int:
        """Layers that a gradient goes through."""
        return self.lm.config.layers

    @property
    def ones_P(self) -> Float[Array, " P"]:
        """Factors that change nothing."""
        return jnp.ones(len(self.neurons), self.lm.ones_LF.dtype)

    def scale_LF(self, theta_P: Float[Array, " P"]) -> Float[Array, "L F"]:
        """The scale of the whole model under these factors."""
        neurons = dataclasses.replace(self.neurons, layer_P=self.neurons.layer_P + self.first)
        return scatter(theta_P, neurons, self.whole.ones_LF)

    def enter(self, batches: Any) -> Any:
        """Packed batches (or a pytree of them) on the mesh, run up to the first layer."""

        def one(batch: PackedBatch) -> PackedBatch:
            batch = put(batch, sharding(self.lm.mesh, "SB"))
            return dataclasses.replace(batch, x_BTD=residual_at(self.whole, batch, self.first))

        return jax.tree.map(one, batches, is_leaf=lambda node: isinstance(node, PackedBatch))

    def enter_behind(
        self, batch: PackedBatch, shared: Sequence[int]
    ) -> tuple[PackedBatch, Float[Array, "1 S D"]]:
        """Rows (leading axis [B]) whose first tokens, `shared`, run beside them: like `enter`.

        Also the stream of those tokens where it enters the first layer.
        """
        batch = put(batch, sharding(self.lm.mesh, "B"))
        shared_S = put(np.asarray(shared, np.int32), sharding(self.lm.mesh, ""))
        shared_1SD, x_BTD = residual_behind(self.whole, batch, shared_S, self.first)
        return dataclasses.replace(batch, x_BTD=x_BTD), shared_1SD
