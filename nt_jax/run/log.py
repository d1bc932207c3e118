"""Where the numbers of a run go besides its own files: TensorBoard, trackio, wandb (`log`)."""

import contextlib
import importlib
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from nt_jax import processes
from nt_jax.config.schema import RunConfig
from nt_jax.errors import ConfigError
from nt_jax.eval.metrics.result import ResultRow
from nt_jax.track import followed_by

FOLDER = "log"  # in the run directory


class Sink(Protocol):
    """One place that numbers go to."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name at an epoch."""
        ...

    def close(self) -> None:
        """Bring everything to disk."""
        ...


class Line(NamedTuple):
    """The package that a sink needs, and the extra that brings it."""

    package: str
    extra: str


SINKS = {
    "tensorboard": Line("tensorboardX", "log"),
    "trackio": Line("trackio", "trackio"),
    "wandb": Line("wandb", "wandb"),
}


def check_log(names: Sequence[str]) -> None:
    """Raises a ConfigError, before any work, where a package is missing."""
    for name in names:
        line = SINKS[name]
        if importlib.util.find_spec(line.package) is None:
            raise ConfigError(
                f"log = {name} needs the package {line.package}: pip install 'nt_jax[{line.extra}]'"
            )


@contextlib.contextmanager
def logged(config: RunConfig, run_dir: Path) -> Iterator[None]:
    """What is tracked within goes to the sinks of the config, which are opened when first needed.

    A run that keeps every stage from before writes nothing.
    """
    opened: list[Sink] = []

    def follow(step: int, values: Mapping[str, float]) -> None:
        if not opened:
            opened.extend(open_sink(name, config, run_dir / FOLDER) for name in config.log)
        for sink in opened:
            sink.write(step, values)

    if not config.log or not processes.first():
        yield
        return
    try:
        with followed_by(follow):
            yield
    finally:
        for sink in opened:
            sink.close()


def open_sink(name: str, config: RunConfig, folder: Path) -> Sink:
    """The sink of that name, its files below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        return TensorBoard(folder / name)
    settings = {"project": "nt_jax", "name": config.name}
    if name == "wandb":  # sends nothing anywhere unless the user has said so
        settings |= {"dir": str(folder), "mode": os.environ.get("WANDB_MODE", "offline")}
    else:  # reads its place when it is imported
        os.environ.setdefault("TRACKIO_DIR", str(folder / name))
    return Runs(name, settings, config)


class TensorBoard:
    """Event files that TensorBoard reads."""

    def __init__(self, folder: Path) -> None:
        self._writer = importlib.import_module("tensorboardX").SummaryWriter(str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One scalar a name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """The file is whole after this."""
        self._writer.close()


class Runs:
    """A run of wandb, or of trackio, which has its API."""

    def __init__(self, package: str, settings: Mapping[str, Any], config: RunConfig) -> None:
        self._module = importlib.import_module(package)
        self._module.init(**settings, config=config.model_dump(mode="json"))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """All names of a step at once."""
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        """End the run."""
        self._module.finish()


def tracked_rows(rows: Sequence[ResultRow]) -> dict[str, float]:
    """The rows of a report by name: set/metric/model, and the judge where there are several.

    Names hold letters, digits and -_./ alone: TensorBoard takes no others.
    """
    several = len({row.judge for row in rows if row.metric == "refusal_rate"}) > 1
    found = {}
    for row in rows:
        judge = [row.judge] if several and row.judge else []
        name = "/".join([row.dataset, row.metric, row.model, *judge])
        found[re.sub(r"[^-/\w.]", "_", name)] = row.value
    return found
