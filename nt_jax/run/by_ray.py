"""Independent pieces of work as tasks of Ray (`--ray HOST:PORT`, extra `ray`, docs/scaling.md).

Every task is a process of its own on some node, and sees the folders and files that the command
sees. Ray starts one anew whose process is lost, and it goes on with the stages that are finished.
Nothing here imports jax: its settings are read at import, and come from the command.
"""

import contextlib
import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nt_jax.environment import prepare_environment, silence_libraries
from nt_jax.errors import ConfigError, NtError, RunError, brief
from nt_jax.peers import LostError

SHARE = "With --ray all nodes need the same files, and a disk that they share."
RETRIES = 3  # times that Ray starts a task again whose process is lost
WAIT = 5.0  # seconds in which the head of a cluster must answer
JOIN = 60.0  # seconds in which a process must have joined it
JOINS = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
HANDED_ON = ("JAX_", "XLA_", "NT_JAX_")  # variables of the command that a task has as well
# What a client of HTTP/2, and so of gRPC, says first (RFC 9113): preface and an empty SETTINGS.
HELLO, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), 4


class Piece(NamedTuple):
    """A task: what it is called, the function as MODULE:NAME, and what that is given."""

    name: str
    function: str
    words: tuple[Any, ...]


class Cluster(NamedTuple):
    """Ray, joined: its module, GPUs of a task, how many tasks run side by side."""

    ray: Any
    gpus: int
    ways: int


@contextlib.contextmanager
def joined(address: str, devices: int) -> Iterator[Cluster]:
    """The cluster at HOST:PORT for tasks of so many devices, left at the end with its tasks ended.

    Raises a ConfigError where the package is missing, no cluster answers, or it is too small.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--ray needs the package ray: pip install 'nt_jax[ray]'")
    check_answers(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    check_joins(address)
    ray = importlib.import_module("ray")
    with _signals_kept():
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"--ray {address}: {brief(error)}") from error
    try:
        yield Cluster(ray, *room(ray.nodes(), devices))
    finally:
        ray.shutdown()


def ways_at(address: str, devices: int) -> int:
    """How many tasks it carries at a time; asked before any work, so that it is there."""
    with joined(address, devices) as cluster:
        return cluster.ways


def check_answers(address: str) -> None:
    """Raises a ConfigError where nothing at HOST:PORT answers as the head of a cluster does.

    Ray itself would wait for more than a minute, and then end the process.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), WAIT) as line:
            line.sendall(HELLO)
            said = line.recv(9)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{_nobody(address)} ({brief(error)}){_START}") from error
    if said[3:4] != bytes([SETTINGS]) and not os.environ.get("RAY_USE_TLS"):
        raise ConfigError(f"{_nobody(address)}: what listens there is something else{_START}")


def check_joins(address: str) -> None:
    """Raises a ConfigError where a process of its own does not join the cluster in time.

    In this one Ray might try for ever, and would hear no signal.
    """
    command = [sys.executable, "-W", "ignore", "-c", JOINS, address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=JOIN)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"--ray {address}: something answers, but no cluster could be joined in {JOIN:.0f} s. "
            "Do this machine and the head reach each other (docs/scaling.md)?"
        ) from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"ray has ended with {done.returncode}"]
        raise ConfigError(f"--ray {address}: {said[-1][:300]}")


_START = ". Start one with `ray start --head` (docs/scaling.md), and give the address that it says."


def _nobody(address: str) -> str:
    return f"--ray {address}: no Ray cluster answers"


def room(nodes: Sequence[Mapping[str, Any]], devices: int) -> tuple[int, int]:
    """(GPUs of a task, how many tasks run side by side) on `nodes`, as `ray.nodes()` lists them.

    A task has a CPU, and where any node has a GPU as many GPUs as the mesh has devices. Raises a
    ConfigError where no node has room for one.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = devices if any(each.get("GPU") for each in alive) else 0
    ways = 0
    for each in alive:
        fit = int(each.get("CPU", 0))
        ways += min(fit, int(each.get("GPU", 0)) // gpus) if gpus else fit
    if not ways:
        wanted = "a CPU" + f" and {gpus} GPUs" * bool(gpus)
        raise ConfigError(
            f"--ray: no node of the cluster has {wanted}, which a task needs. Add one, or lower "
            "mesh.data, mesh.model or mesh.fsdp."
        )
    return gpus, ways


def work_off(cluster: Cluster, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Any]]:
    """Every piece and what its function gives, as they end.

    An NtError of one is raised here with the piece's name; a process that is lost more than RETRIES
    times is a LostError.
    """
    known = {name: text for name, text in os.environ.items() if name.startswith(HANDED_ON)}
    needs = {"num_cpus": 1, "num_gpus": cluster.gpus}
    task = cluster.ray.remote(**needs, max_retries=RETRIES, max_calls=1)(work_at)
    asked = {
        task.options(name=piece.name).remote(os.getcwd(), known, *piece[1:]): piece
        for piece in pieces
    }
    while asked:
        ready, _ = cluster.ray.wait([*asked], num_returns=1, timeout=1.0)  # signals come between
        for one in ready:
            piece = asked.pop(one)
            yield piece, _result(cluster.ray, one, piece.name)


def _result(ray: Any, one: Any, name: str) -> Any:
    try:
        return ray.get(one)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, NtError):
            raise type(error.cause)(f"{name}: {error.cause}") from None
        raise
    except ray.exceptions.RayError as error:
        raise LostError(
            f"{name}: its process was lost, and {RETRIES} after it ({brief(error)}). What is "
            "finished is kept: repeat the command."
        ) from error


def work_at(place: str, environ: Mapping[str, str], function: str, words: tuple[Any, ...]) -> Any:
    """What a function gives; called in the process of a task, in the command's folder."""
    try:
        os.chdir(place)
    except OSError as error:
        raise RunError(
            f"{socket.gethostname()} cannot enter {place} ({error.strerror}). With --ray all nodes "
            "need a disk that they share: start the command in a folder of it."
        ) from error
    os.environ.update(environ)
    prepare_environment(os.environ)
    silence_libraries()
    from rich.console import Console

    from nt_jax.console import shown_on

    module, _, name = function.partition(":")
    with shown_on(Console(markup=False, width=120)):  # Ray keeps it in the files of its workers
        return getattr(importlib.import_module(module), name)(*words)


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would end the command without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
