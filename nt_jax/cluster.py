"""The processes of one run meet: by flags, or as SLURM, Open MPI or Kubernetes start them."""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from nt_jax import peers, processes
from nt_jax.errors import ConfigError, brief

# How many processes srun and mpirun have started, and which one this is.
LAUNCHERS = (
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
)
# An indexed Job of Kubernetes, whose API says the rest to whoever has its package (jax[k8s]).
POD = ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")
ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})")
LOOPBACK = re.compile(r"(?:127\.[0-9.]+|\[::1\]|localhost):[0-9]+")
MOST = 1 << 16  # processes


class Place(NamedTuple):
    """Where a process stands among those of its run; what is None jax.distributed finds out."""

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


def address(word: str) -> str:
    """HOST:PORT, as a type of argparse."""
    port = ADDRESS.fullmatch(word)
    if port is None or not 0 < int(port[1]) < 1 << 16:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, not {word[:80]!r}")
    return word


def place_of(options: argparse.Namespace, environ: Mapping[str, str]) -> Place | None:
    """The place that flags or a launcher give this process; None for a process alone.

    Raises a ConfigError where the flags do not belong together.
    """
    given = Place(
        *(getattr(options, name, None) for name in ("coordinator", "processes", "process"))
    )
    started = _started(environ)
    if given != Place():
        if given.coordinator is not None and given[1:] == (None, None):
            given = Place(given.coordinator, *started)
        return _checked(given)
    if not hasattr(options, "coordinator"):
        return None
    pod = all(name in environ for name in POD) and importlib.util.find_spec("kubernetes")
    return Place() if (started[0] or 1) > 1 or pod else None  # jax.distributed finds the rest


def _started(environ: Mapping[str, str]) -> tuple[int, int] | tuple[None, None]:
    """(how many a launcher has started, which one this is); Nones without one.

    Of two launchers, as mpirun within `srun --pty bash`, the one that has started several.
    """
    said = [tuple(environ.get(name, "") for name in names) for names in LAUNCHERS]
    found = [(int(n), int(i)) for n, i in said if n.isdecimal() and i.isdecimal()]
    return next((place for place in found if place[0] > 1), found[0] if found else (None, None))


def _checked(place: Place) -> Place | None:
    if place.coordinator is None or place.count is None or place.index is None:
        raise ConfigError(
            "--coordinator, --processes and --process belong together (command line): "
            "--coordinator HOST:PORT --processes 2 --process 0, and --process 1 for the other one. "
            "Under srun and mpirun --coordinator alone will do"
        )
    try:
        address(place.coordinator)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--coordinator {error} (command line): that of process 0") from None
    if place.index >= place.count or place.count > MOST:
        raise ConfigError(
            f"--process={place.index} --processes={place.count} (command line): processes are "
            f"counted from 0, and are {MOST:,} at most"
        )
    return place if place.count > 1 else None


def begin(place: Place) -> None:
    """Meet the other processes; raises a ConfigError where they do not all come.

    Where they do not come in time XLA aborts this process, and its parent says why.
    """
    import jax
    from jax._src import distributed

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    local = place.coordinator is not None and LOOPBACK.fullmatch(place.coordinator)
    if local:
        _keep_gloo_local()
    try:
        with _quiet():
            jax.distributed.initialize(
                *place,
                initialization_timeout=peers.START,
                shutdown_timeout_seconds=peers.START,
                heartbeat_timeout_seconds=peers.HEARTBEAT,
                coordinator_bind_address=place.coordinator if local else None,
            )
    except ValueError as error:
        raise ConfigError(
            f"jax.distributed cannot tell from the launcher where process 0 is ({brief(error)}). "
            "Add --coordinator HOST:PORT, an address of process 0 (docs/scaling.md)."
        ) from error
    except (RuntimeError, OSError) as error:
        raise ConfigError(f"{peers.NOT_MET} ({brief(error)})") from error
    state = distributed.global_state
    processes.join(state.process_id, state.num_processes, state.client)
    peers.met()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the stack that XLA prints where it aborts: it says nothing of use."""
    screen, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nothing)


def _keep_gloo_local() -> None:
    """Let the collectives of CPUs listen on loopback alone, not where the machine's name points."""
    lib: Any = importlib.import_module("jax._src.lib")._jax
    name = "make_gloo_tcp_collectives"  # jax has no setting for it
    setattr(lib, name, functools.partial(getattr(lib, name), hostname="127.0.0.1"))
