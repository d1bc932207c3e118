"""One cell of a grid or an experiment: a run of its own up to its factors."""

import time
from collections.abc import Sequence
from pathlib import Path

from nt_jax.config.schema import RunConfig
from nt_jax.models.neurons import Factors
from nt_jax.run.pipeline import Start, begin
from nt_jax.run.preflight import Inputs
from nt_jax.run.stages import kept_factors
from nt_jax.rundir import RunDirectory


def tune_cell(
    config: RunConfig,
    inputs: Inputs,
    beside: Sequence[Path] = (),
    start: Start | None = None,
) -> tuple[Factors, float]:
    """(the factors that a cell keeps, how many seconds it took); nothing finished is repeated.

    Its folder is a whole run directory, and its factors are those that `train` gives with its
    config, bit for bit, unless there is a `start`. Stages that runs `beside` it have made from the
    same things are taken over.
    """
    started = time.monotonic()
    with RunDirectory(config.folder) as directory:
        table, keys = begin(config, directory, inputs, start)
        for stage in table:
            directory.carry(stage, keys[stage.name], beside)
            if stage.name == "train":
                break
        places = (directory.read("select"), directory.read("train"))
        return kept_factors(config.tune, *places), time.monotonic() - started
