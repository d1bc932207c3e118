"""What run.json says about the machine and the programs behind a result."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "nt_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "gguf",
    "pydantic",
)
SOURCE = "nt_jax source"
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def this_machine() -> dict[str, Any]:
    """Versions, platform and hardware of this process; devices are added by whoever has jax."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {
            **{name: version for name in PACKAGES if (version := _version(name))},
            SOURCE: source(),
        },
        "hardware": {"cpus": cpu_count(), "memory_bytes": memory_bytes()},
    }


@functools.cache
def source() -> str:
    """The start of a hash of our package: a version says nothing of what was changed since."""
    folder, found = Path(__file__).parent, hashlib.sha256()
    kinds = (".py", ".json", ".jsonl", ".yaml", ".md", ".csv")
    for file in sorted(path for path in folder.rglob("*") if path.suffix in kinds):
        found.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return found.hexdigest()[:12]


def cpu_count() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Memory in bytes that this process may use: the machine's, or its container's limit."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return installed
    return min(installed, int(limit)) if limit.isdigit() else installed


def peak_memory() -> int:
    """The most memory in bytes that this process has held so far; the kernel never lowers it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
