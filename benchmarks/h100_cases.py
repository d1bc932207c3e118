"""One program on H100s: what is compiled, and what it cannot do without.

Every program comes with a floor: FLOPs of matrix products, and bytes of weights, live cache and
results that must be read or written once. W weights of the layers, D width, V vocabulary, N query
heads, H head dim, K kv heads, L layers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.sharding import Mesh

from nt_jax.mesh import mesh_over
from nt_jax.models.config import ModelConfig
from nt_jax.models.footprint import layer_parameters

ITEM = 2  # bytes of a bfloat16
# (data, model) of so many cards.
LAYOUTS = {1: (1, 1), 2: (1, 2), 4: (2, 2), 8: (8, 1)}


class Floor(NamedTuple):
    """What no program can do without, on all cards together, and in words."""

    flops: float
    bytes: float
    formula: str


@dataclasses.dataclass(frozen=True)
class Case:
    """One program at one size."""

    name: str
    cards: int
    floor: Floor
    lowered: Callable[[], Any]
    rounds: int = 1  # of loops whose number of rounds a run settles
    planned: float | None = None  # bytes of temporaries that the run's own plan counts with


class Size:
    """The weights and the cache of a model in numbers."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.layers = layer_parameters(config) * config.layers
        self.head = config.vocab_size * config.width
        self.column = 2 * config.layers * config.kv_heads * config.head_dim * ITEM
        self.attention = 4 * config.heads * config.head_dim * config.layers

    @property
    def weights(self) -> float:
        """Bytes that a pass over layers and head reads."""
        return ITEM * (self.layers + self.head)


def mesh_of(devices: list, layout: tuple[int, ...] | None = None) -> Mesh:
    """The (data, model) or (data, model, fsdp) mesh of these cards, as LAYOUTS says unless told."""
    return mesh_over(devices, *(layout or LAYOUTS[len(devices)]))
