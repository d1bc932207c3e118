"""The mesh, the one table of which dimension letter lies on which of its axes, and its devices."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nt_jax.errors import ConfigError
from nt_jax.runinfo import memory_bytes

# Letters are the suffixes used everywhere (B batch, R attribution rows, F neurons, N query heads,
# K kv heads, V vocabulary). A letter that is not listed is replicated.
SHARDING_RULES = {"B": "data", "R": "data", "F": "model", "N": "model", "K": "model", "V": "model"}


def make_mesh(data: int = 1, model: int = 1) -> Mesh:
    """A (data, model) mesh over the first data * model devices, with Auto axes."""
    devices = jax.devices()
    if data * model > len(devices):
        raise ConfigError(
            f"mesh.data={data} x mesh.model={model} needs {data * model} devices, but this machine "
            f"shows {len(devices)} ({devices[0].platform}). Lower one of the two."
        )
    auto, used = (AxisType.Auto, AxisType.Auto), devices[: data * model]
    return jax.make_mesh((data, model), ("data", "model"), axis_types=auto, devices=used)


def sharding(mesh: Mesh, letters: str) -> NamedSharding:
    """The placement of an array whose axes are named by `letters`, e.g. "LDF"."""
    axes: list[str | None] = []
    for letter in letters:
        axis = SHARDING_RULES.get(letter)
        axes.append(None if axis in axes else axis)  # a mesh axis can serve one dimension only
    return NamedSharding(mesh, PartitionSpec(*axes))


def filled(rows: int, mesh: Mesh) -> int:
    """The smallest batch of at least `rows` that the mesh's data axis cuts into equal parts."""
    ways = mesh.shape["data"]
    return -(-rows // ways) * ways


def memory_limit() -> int:
    """Bytes of the first device; for a CPU, which does not say, half the machine's, 8 GiB at most.

    The cap keeps what a computer computes apart from how much memory it happens to have.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or min(8 << 30, memory_bytes() // 2)


def free_bytes() -> int:
    """What of the limit is not in use; a CPU's weights do not count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return memory_limit() - stats.get("bytes_in_use", 0)


def devices() -> str:
    """The accelerators in words, e.g. "cpu x 1"."""
    found = jax.devices()
    return f"{found[0].device_kind if found[0].platform != 'cpu' else 'cpu'} x {len(found)}"
