"""The mesh, the one table of which dimension letter lies on which of its axes, and its devices."""

from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from nt_jax import processes
from nt_jax.errors import ConfigError
from nt_jax.runinfo import memory_bytes

# Letters are the suffixes used everywhere (B batch, R attribution rows, F neurons, N query heads,
# K kv heads, V vocabulary). A letter that is not listed is replicated.
SHARDING_RULES = {"B": "data", "R": "data", "F": "model", "N": "model", "K": "model", "V": "model"}


def make_mesh(data: int = 1, model: int = 1) -> Mesh:
    """A (data, model) mesh over the first data * model devices, with Auto axes.

    Of several processes each must have a part, so theirs is over all devices.
    """
    devices = jax.devices()
    if processes.several() and data * model != len(devices):
        raise ConfigError(
            f"mesh.data={data} x mesh.model={model} are {data * model} devices, but the "
            f"{processes.count()} processes have {len(devices)}, and all must be used. Change one."
        )
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


def host(tree: Any) -> Any:
    """The arrays of a pytree as numpy arrays, whole, wherever their parts lie.

    With several processes all must ask, in the same order.
    """
    return jax.device_get(jax.tree.map(_whole, tree) if processes.several() else tree)


def _whole(leaf: Any) -> Any:
    spread = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    return process_allgather(leaf, tiled=True) if spread else leaf


def put(tree: Any, where: Sharding) -> Any:
    """The arrays of a pytree, the same in all processes, placed on a mesh."""
    if not processes.several():
        return jax.device_put(tree, where)

    def place(leaf: Any) -> jax.Array:  # device_put would compare them over the network
        whole = np.asarray(host(leaf))
        return jax.make_array_from_callback(whole.shape, where, whole.__getitem__)

    return jax.tree.map(place, tree)


def memory_limit() -> int:
    """Bytes of the first device, the smallest of those of a run's processes.

    For a CPU, which does not say, half the machine's, 8 GiB at most. The cap keeps what a computer
    computes apart from how much memory it happens to have.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    return min(processes.every(stats.get("bytes_limit") or min(8 << 30, memory_bytes() // 2)))


def free_bytes() -> int:
    """What of the limit is not in use; a CPU's weights do not count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return memory_limit() - max(processes.every(stats.get("bytes_in_use", 0)))


def devices() -> str:
    """The accelerators in words, e.g. "cpu x 1"."""
    found = jax.devices()
    return f"{found[0].device_kind if found[0].platform != 'cpu' else 'cpu'} x {len(found)}"
