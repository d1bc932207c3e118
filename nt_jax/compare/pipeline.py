"""The comparison from a run's config to its tables, top to bottom; finished stages are skipped.

the run itself > per method: search, test answers, numbers > all numbers > tables
"""

from typing import Any

from nt_jax.compare.bench import Bench, settings_of
from nt_jax.compare.lineup import needed
from nt_jax.compare.method import UnusableMethodError
from nt_jax.compare.methods.ablations import check_grid
from nt_jax.compare.search import Chosen
from nt_jax.compare.side_by_side import fit_by_ray, forget, sides
from nt_jax.config.schema import RunConfig
from nt_jax.console import say
from nt_jax.errors import ConfigError, RunError
from nt_jax.eval.metrics.result import BASE
from nt_jax.mesh import devices
from nt_jax.run import pipeline
from nt_jax.run.by_ray import ways_at
from nt_jax.rundir import RunDirectory

FOLDER = "compare"  # in the run directory


def check_settings(config: RunConfig) -> None:
    """Raises a ConfigError for settings that no comparison takes."""
    if config.neurons.source is not None:
        raise ConfigError(
            f"neurons.source = {config.neurons.source}: a comparison is of methods that all begin "
            "with the untuned model. Leave it out."
        )
    if config.model.frozen is not None:
        raise ConfigError(
            f"model.frozen = {config.model.frozen}: the methods of a comparison change matrices "
            "that are kept so. Leave it out."
        )


def compare(config: RunConfig, verify: bool = False, ray: str | None = None) -> dict[str, Any]:
    """Fit and measure the methods of the settings and what their tables need; the JSON object.

    Everything lies in the run directory, below compare/: one stage for each method's search, test
    answers and numbers, which go on where they were interrupted. `ray` is the HOST:PORT of a
    cluster that carries the methods side by side, to the same numbers.
    """
    check_settings(config)
    if ray is not None:
        ways_at(ray, config.mesh.devices)
    inputs = pipeline.read_inputs(config)
    if {prompt.harmful for prompt in inputs.tests.prompts} != {True, False}:
        raise ConfigError(
            f"eval.datasets={list(config.eval.datasets)}: a comparison needs a harmful and a "
            "harmless set, or SU-F1 is not defined. Name one of each."
        )
    if "7" in config.compare.tables:
        check_grid(config.compare, inputs.model.checkpoint.config, config.neurons.first_layer)
    pipeline.run(config, inputs=inputs, verify=verify)
    wanted, inside = needed(config.compare), config.folder / FOLDER
    with RunDirectory(config.folder) as outer, RunDirectory(inside, verify) as inner:
        inner.record(
            config=config.model_dump(mode="json"), seed=config.seed, devices=devices(),
            hashes=inputs.hashes, methods=[method.name for method in wanted],
        )  # fmt: skip
        unusable = {} if ray is None else fit_by_ray(config, wanted, inside, inputs.hashes, ray)
        bench = Bench(config, inputs, outer, inner, sides(inside))
        numbers = [bench.numbers(BASE, lambda: bench.base, outer.folder(BASE), bench.known[BASE])]
        found: dict[str, Chosen] = {}
        left_out: dict[str, str] = {}  # label -> why
        for method in wanted:
            try:
                if method.name in unusable:
                    raise UnusableMethodError(unusable[method.name])
                settings = settings_of(method, found)
                found[method.name], folder = bench.method(method, settings)
                numbers.append(folder)
            except UnusableMethodError as error:
                left_out[method.label] = str(error)
                say(method.name, f"left out of the tables: {error}")
        if not found:
            raise RunError(
                f"no method could be fitted. {'; '.join(map(': '.join, left_out.items()))}"
            )
        rows = {method.name: method for method in wanted if method.name in found}
        facts = bench.tables(found, rows, left_out, numbers)
        forget(inside)
        return facts
