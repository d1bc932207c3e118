"""The mesh, the one table of which dimension letter lies on which of its axes, and its devices."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from nt_jax import processes
from nt_jax.errors import ConfigError
from nt_jax.runinfo import memory_bytes

# Letters are the suffixes used everywhere (B batch, R attribution rows, D model width, F neurons, N
# query heads, K kv heads, V vocabulary). A letter that is not listed is replicated. Devices along
# fsdp have rows of their own, as those along data do, and share out the weights besides: no
# activation is cut along D, as its rows have taken the axis.
ROWS = ("data", "fsdp")
SHARDING_RULES = {"B": ROWS, "R": ROWS, "D": ("fsdp",), **dict.fromkeys("FNKV", ("model",))}


def make_mesh(data: int = 1, model: int = 1, fsdp: int = 1) -> Mesh:
    """A (data, fsdp, model) mesh over the first data * fsdp * model devices, with Auto axes.

    Of several processes each must have a part, so theirs is over all devices.
    """
    devices, wanted = jax.devices(), data * fsdp * model
    named = f"mesh.data={data} x mesh.model={model}" + f" x mesh.fsdp={fsdp}" * (fsdp > 1)
    if processes.several() and wanted != len(devices):
        raise ConfigError(
            f"{named} are {wanted} devices, but the {processes.count()} processes have "
            f"{len(devices)}, and all must be used. Change one."
        )
    if wanted > len(devices):
        raise ConfigError(
            f"{named} needs {wanted} devices, but this machine "
            f"shows {len(devices)} ({devices[0].platform}). Lower one of them."
        )
    return mesh_over(devices[:wanted], data, model, fsdp)


def mesh_over(devices: Sequence[Any], data: int, model: int, fsdp: int = 1) -> Mesh:
    """The mesh of these devices, `model` laid over neighbours."""
    auto, axes = (AxisType.Auto,) * 3, (*ROWS, "model")
    return jax.make_mesh((data, fsdp, model), axes, axis_types=auto, devices=devices)


def sharding(mesh: Mesh, letters: str) -> NamedSharding:
    """The placement of an array whose axes are named by `letters`, e.g. "LDF"."""
    free = [axis for axis, size in mesh.shape.items() if size > 1 or axis != "fsdp"]
    spec: list[str | tuple[str, ...] | None] = []
    for letter in letters:
        found = tuple(axis for axis in SHARDING_RULES.get(letter, ()) if axis in free)
        free = [axis for axis in free if axis not in found]  # each serves one dimension only
        spec.append(found if len(found) > 1 else next(iter(found), None))
    return NamedSharding(mesh, PartitionSpec(*spec))


def row_ways(mesh: Mesh) -> int:
    """In how many parts the rows of a batch are cut."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def on_cpu(mesh: Mesh) -> bool:
    """Whether its devices are processors, not accelerators."""
    return mesh.devices.flat[0].platform == "cpu"


def from_ampere_on(mesh: Mesh) -> bool:
    """Whether its devices are NVIDIA's from compute capability 8.0 on: jax has kernels for them."""
    device = mesh.devices.flat[0]
    major = str(getattr(device, "compute_capability", "")).split(".")[0]  # of AMD's: gfx90a
    return device.platform in ("gpu", "cuda") and major.isdigit() and int(major) >= 8


def filled(rows: int, mesh: Mesh) -> int:
    """The smallest batch of at least `rows` that the mesh cuts into equal parts."""
    ways = row_ways(mesh)
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
