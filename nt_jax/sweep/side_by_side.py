"""The cells of a grid as tasks of Ray: each is a run of its own, so none waits for another."""

import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nt_jax.config.schema import RunConfig
from nt_jax.console import clock, progress, say
from nt_jax.errors import DivergedError, RunError
from nt_jax.run.by_ray import SHARE, Piece, joined, work_off
from nt_jax.run.cells import tune_cell
from nt_jax.run.pipeline import table_and_keys
from nt_jax.run.preflight import read_inputs
from nt_jax.rundir import RunDirectory
from nt_jax.sweep.place import Placed, beside
from nt_jax.sweep.points import words


def tune_by_ray(placed: Mapping[str, Placed], root: Path, address: str) -> dict[str, DivergedError]:
    """Every cell to its factors, as many side by side as the cluster at `address` has room for.

    By name, why those that diverge have none.
    """
    failed: dict[str, DivergedError] = {}
    left = {name: one for name, one in placed.items() if not one.done}
    for name in placed.keys() - left.keys():
        say("cell", f"{words(placed[name].cell.settings)}   kept from before")
    if not left:
        return failed
    pieces = [
        Piece(name, f"{__name__}:tune_alone", (one.config, one.key, beside(one, root)))
        for name, one in left.items()
    ]
    devices = next(iter(placed.values())).config.mesh.devices
    with joined(address, devices) as cluster, progress("cells", len(pieces), "cells") as advance:
        say("ray", f"{len(pieces)} cells, {cluster.ways} at a time, by the cluster at {address}")
        for piece, (host, seconds, diverged) in work_off(cluster, pieces):
            one = left[piece.name]
            if diverged:
                failed[piece.name] = DivergedError(diverged)
                say("left out", diverged)
                advance(1)
                continue
            if not one.done:
                raise RunError(f"{host} has tuned {one.folder}, which is not here. {SHARE}")
            advance(1)
            told = f"{words(one.cell.settings)}   {one.folder}   {clock(seconds)} on {host}"
            say("cell", told)
    return failed


def tune_alone(config: RunConfig, key: str, near: Sequence[Path]) -> tuple[str, float, str]:
    """(the name of this machine, seconds, "") once a cell has its factors; called in a task.

    The last says why a cell that diverges has none.

    Raises a RunError where this machine reads other files than the command, whose key is `key`.
    """
    started, host = time.monotonic(), socket.gethostname()
    inputs = read_inputs(config)
    _, keys = table_and_keys(config, RunDirectory(config.folder), inputs)
    if keys["train"] != key:
        raise RunError(f"{host} reads another model or other data than the command. {SHARE}")
    try:
        tune_cell(config, inputs, near)
    except DivergedError as error:
        return host, time.monotonic() - started, str(error)
    return host, time.monotonic() - started, ""
