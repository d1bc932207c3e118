"""The methods of a comparison as tasks of Ray, each in a folder of its own until it is done.

RUN/compare/by_ray/NAME     the stages of one method, as RUN/compare has them
The comparison takes finished stages over from there, by hard links where possible, and deletes the
folders at its end.
"""

import contextlib
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from nt_jax.atomic import remove
from nt_jax.compare.bench import Bench, settings_of
from nt_jax.compare.lineup import needed
from nt_jax.compare.method import Method, Setting, UnusableMethodError
from nt_jax.compare.search import Chosen, read_chosen
from nt_jax.config.schema import RunConfig
from nt_jax.console import progress, say
from nt_jax.errors import RunError
from nt_jax.run.by_ray import SHARE, Piece, joined, work_off
from nt_jax.run.preflight import read_inputs
from nt_jax.rundir import RunDirectory

FOLDER = "by_ray"


def sides(inside: Path) -> list[Path]:
    """The folders of single methods in the folder of a comparison."""
    return sorted(path for path in (inside / FOLDER).glob("*") if path.is_dir())


def forget(inside: Path) -> None:
    """Delete them: what they hold has been taken over."""
    remove(inside / FOLDER)


def fit_by_ray(
    config: RunConfig,
    wanted: Sequence[Method],
    inside: Path,
    hashes: Mapping[str, str],
    address: str,
) -> dict[str, str]:
    """Carry every method to its numbers; those that cannot be fitted, by name, and why.

    A method that follows another waits for it. `hashes` are those of the command's inputs.
    """
    found: dict[str, Chosen] = {}
    unusable: dict[str, str] = {}
    left = list(wanted)
    with (
        joined(address, config.mesh.devices) as cluster,
        progress("methods", len(wanted), "methods") as advance,
    ):
        say("ray", f"{len(left)} methods, {cluster.ways} at a time, by the cluster at {address}")
        while left:
            known = {None, *found, *unusable}
            now = [method for method in left if method.follows in known] or left
            left = [method for method in left if method not in now]
            pieces = []
            for method in now:
                with contextlib.suppress(UnusableMethodError):  # its leader; said by the caller
                    words = (config, method.name, settings_of(method, found), inside, hashes)
                    pieces.append(Piece(method.name, f"{__name__}:method_alone", words))
            for piece, (host, why) in work_off(cluster, pieces):
                advance(1)
                if why is not None:
                    unusable[piece.name] = why
                    continue
                say(piece.name, f"fitted and measured on {host}")
                fit = inside / FOLDER / piece.name / f"fit-{piece.name}"
                if not fit.is_dir():
                    raise RunError(f"{host} has made {fit}, which is not here. {SHARE}")
                found[piece.name] = read_chosen(fit)[0]
    return unusable


def method_alone(
    config: RunConfig,
    name: str,
    settings: Sequence[Setting],
    inside: Path,
    hashes: Mapping[str, str],
) -> tuple[str, str | None]:
    """(the name of this machine, why the method cannot be fitted); called in a task.

    Raises a RunError where this machine reads other files than the command, whose `hashes` differ.
    """
    host, folder = socket.gethostname(), inside / FOLDER / name
    # The run's own folder is held by the command: its stages are read, not written.
    inputs = read_inputs(config.model_copy(update={"run_dir": str(folder)}))
    if inputs.hashes != hashes:
        raise RunError(f"{host} reads another model or other data than the command. {SHARE}")
    with RunDirectory(folder) as side:
        bench = Bench(config, inputs, RunDirectory(config.folder), side, [inside])
        method = next(each for each in needed(config.compare) if each.name == name)
        try:
            bench.method(method, settings)
        except UnusableMethodError as error:
            return host, str(error)
    return host, None
