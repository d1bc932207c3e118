"""The meshes that some devices allow for a model: what each stage holds, how long a run takes."""

import dataclasses
from collections.abc import Sequence

from nt_jax.checkpoints.checkpoint import check_mesh
from nt_jax.config.schema import MeshConfig, RunConfig
from nt_jax.data.training import Parts
from nt_jax.doctor.devices import Kind
from nt_jax.errors import ConfigError
from nt_jax.eval.prompts import Tests
from nt_jax.models.config import ModelConfig
from nt_jax.run.estimate import stage_seconds
from nt_jax.run.memory import WIDTH, Held, stage_memory


@dataclasses.dataclass(frozen=True)
class Layout:
    """One mesh, what a run takes on it."""

    mesh: MeshConfig
    stages: dict[str, Held]
    room: int  # bytes of a device
    seconds: dict[str, float]

    @property
    def devices(self) -> int:
        """So many."""
        return self.mesh.devices

    @property
    def largest(self) -> str:
        """The stage that holds most."""
        return max(self.stages, key=lambda stage: self.stages[stage].total)

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        return self.stages[self.largest].total <= self.room

    @property
    def time(self) -> float:
        """Seconds of a run."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        return str(self.mesh)


def layouts(
    config: RunConfig,
    model: ModelConfig,
    records: Parts,
    tests: Tests,
    count: int,
    kind: Kind,
    prompt: int = WIDTH,
) -> list[Layout]:
    """Every mesh of at most `count` devices, in powers of two, that divides the model.

    Without an fsdp axis: what gathering weights takes is no part of the time of a pass.
    """
    found: list[Layout] = []
    powers = [1 << power for power in range(count.bit_length())]
    for data, ways in ((d, m) for d in powers for m in powers if d * m <= count):
        try:
            check_mesh(model, {"data": data, "model": ways})
        except ConfigError:
            continue
        placed = config.model_copy(update={"mesh": MeshConfig(data=data, model=ways)})
        found.append(layout(placed, model, records, tests, kind, prompt))
    return found


def layout(
    config: RunConfig,
    model: ModelConfig,
    records: Parts,
    tests: Tests,
    kind: Kind,
    prompt: int = WIDTH,
) -> Layout:
    """That of the mesh of a config; `prompt`: tokens of a prompt, for memory."""
    seconds = stage_seconds(config, model, records, tests, kind.machine)
    stages = stage_memory(config, model, kind.room, prompt)
    return Layout(config.mesh, stages, kind.room, seconds)


def smallest(found: Sequence[Layout]) -> Layout | None:
    """Of those that fit, the one of fewest devices, and among these the fastest."""
    fitting = [each for each in found if each.fits]
    return min(fitting, key=lambda each: (each.devices, each.time), default=None)


def fastest(found: Sequence[Layout]) -> Layout | None:
    """Of those that fit."""
    return min((each for each in found if each.fits), key=lambda each: each.time, default=None)


def nearest(found: Sequence[Layout]) -> Layout:
    """The one whose largest stage is smallest."""
    return min(found, key=lambda each: each.stages[each.largest].total)
