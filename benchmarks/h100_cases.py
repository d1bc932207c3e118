"""One program on H100s: what is compiled, and what it cannot do without.

Every program comes with a floor: FLOPs of matrix products, and bytes of weights, live cache and
results that must be read or written once. W weights of the layers, D width, V vocabulary, N query
heads, H head dim, K kv heads, L layers.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jax.stages import Lowered, Traced, Wrapped

from benchmarks import hlo_cost
from nt_jax.mesh import mesh_over, row_ways
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


def _same(arguments: tuple[Any, ...], _: Any) -> tuple[Any, ...]:
    return arguments


@dataclasses.dataclass(frozen=True)
class Case:
    """One program at one size.

    What runs it for real beside shapes: `values` of arguments by name where benchmarks/filling.py
    cannot know them, and `again`, the next call's arguments given those of a call and its result (a
    program may take the memory of an argument for its result). Such a call does `turns` of the work
    that floor and model are of.
    """

    name: str
    mesh: Mesh
    floor: Floor
    program: Wrapped
    arguments: tuple[Any, ...]  # of shapes
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # static arguments
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # numbers, given by name
    rounds: int = 1  # of loops whose number of rounds a run settles
    seen: float = 1.0  # share of the cache's columns that hold tokens
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    again: Callable[[tuple[Any, ...], Any], tuple[Any, ...]] = _same
    turns: int = 1

    @property
    def cards(self) -> int:
        """Devices."""
        return self.mesh.size

    @property
    def layout(self) -> str:
        """Its mesh as a Footprint counts it, data x model x fsdp: that of a cell of plan.py."""
        ways = self.mesh.shape
        return f"{row_ways(self.mesh)}x{ways['model']}x{ways['fsdp']}"

    @property
    def floor_seconds(self) -> float:
        """What one card needs at least, by the floor's formula and the figures of an H100."""
        flops, moved, _ = self.floor
        return max(flops / hlo_cost.PEAK, moved / hlo_cost.BANDWIDTH) / self.cards

    def lowered(self) -> Lowered:
        """The program, lowered for the devices of its mesh, present or not."""
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer count
            traced = self.program.trace(*self.arguments, **self.settings, **self.options)
        return lowered_for(self.mesh, traced)


def lowered_for(mesh: Mesh, traced: Traced) -> Lowered:
    """A traced program, lowered for the devices of a mesh, which need not be there."""
    platform = mesh.devices.flat[0].platform
    return traced.lower(lowering_platforms=({"gpu": "cuda"}.get(platform, platform),))


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
