"""The comparison from a run's config to its tables, top to bottom; finished stages are skipped.

the run itself > per method: search, test answers, numbers > all numbers > tables
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from nt_jax.compare.ablations import check_grid
from nt_jax.compare.fitting_data import Material
from nt_jax.compare.measure import first_of_each, measure_one, merge, take_over
from nt_jax.compare.methods import needed
from nt_jax.compare.render import screen
from nt_jax.compare.search import (
    Chosen,
    Method,
    Setting,
    UnusableMethodError,
    built,
    read_chosen,
    search,
)
from nt_jax.compare.write import read_tables, write_comparison
from nt_jax.config.schema import RunConfig, config_key
from nt_jax.errors import ConfigError, RunError
from nt_jax.eval.answering import Measured, answer_all
from nt_jax.eval.metrics.rows import BASE, read_rows
from nt_jax.generate.session import Session, devices
from nt_jax.run.pipeline import MEASURING, Inputs, clock, read_inputs, run
from nt_jax.run.stages import scorer_of
from nt_jax.rundir import RunDirectory

FOLDER = "compare"  # in the run directory
FITTING = (
    "seed", "model.dtype", "eval.judge", "tune", "data", "neurons.first_layer",
    "compare.search", "compare.criterion", "compare.validation",
)  # fmt: skip
ANSWERING = ("model.dtype", "eval.max_new_tokens", "eval.engine")


def compare(
    config: RunConfig, console: Console, methods: Sequence[str], tables: Sequence[str]
) -> dict[str, Any]:
    """Fit and measure `methods` and what `tables` need, and write the tables; the JSON object.

    Everything lies in the run directory, below compare/: one stage for each method's search, test
    answers and numbers, which go on where they were interrupted.
    """
    if config.eval.engine != "jax":
        raise ConfigError(
            f"eval.engine={config.eval.engine}: it can neither steer nor read the changed weights "
            "of rivals, and all methods are compared in one engine. Set eval.engine=jax."
        )
    inputs = read_inputs(config, console)
    if {prompt.harmful for prompt in inputs.session.prompts} != {True, False}:
        raise ConfigError(
            f"eval.datasets={list(config.eval.datasets)}: a comparison needs a harmful and a "
            "harmless set, or SU-F1 is not defined. Name one of each."
        )
    if "7" in tables:
        check_grid(config.compare, inputs.session.checkpoint.config, config.neurons.first_layer)
    run(config, console, inputs=inputs)
    wanted = needed(methods, tables, config.compare)
    with RunDirectory(config.folder) as outer, RunDirectory(config.folder / FOLDER) as inner:
        bench = _Bench(inputs, outer, inner)
        inner.record(
            config=config.model_dump(mode="json"), seed=config.seed, devices=devices(),
            hashes=inputs.hashes, methods=[method.name for method in wanted],
        )  # fmt: skip
        folders = [bench.base()]
        found: dict[str, Chosen] = {}
        left_out: dict[str, str] = {}  # label -> why
        for method in wanted:
            try:
                found[method.name], folder = bench.method(method, found)
                folders.append(folder)
            except UnusableMethodError as error:
                left_out[method.label] = str(error)
                inputs.session.say(method.name, f"left out of the tables: {error}")
        if not found:
            raise RunError(
                f"no method could be fitted. {'; '.join(map(': '.join, left_out.items()))}"
            )
        fitted = [method for method in wanted if method.name in found]
        return bench.tables(fitted, found, left_out, folders, tables)


class _Bench:
    """One comparison under way: what its stages share."""

    def __init__(self, inputs: Inputs, outer: RunDirectory, inner: RunDirectory) -> None:
        self.inputs, self.outer, self.inner = inputs, outer, inner
        self.session: Session = inputs.session
        self.config = self.session.config
        self.material = Material(self.session, inputs.records, outer)
        self.base_model = Measured(BASE, self.session)
        self.keys: dict[str, str] = {}
        limit = self.config.compare.limit
        self.prompts = first_of_each(self.session.prompts, limit)
        self.choices = first_of_each(self.session.choices, limit)
        self.scorer = scorer_of(self.session) if self.config.eval.perplexity else None

    def stage(self, name: str, key: str, work: Callable[[Path], str]) -> Path:
        """Do `work(folder)` unless it is done; the folder."""
        self.keys[name] = key
        started = time.monotonic()
        if self.inner.finished(name, key):
            self.session.say(name, "kept from before")
        else:
            with self.inner.stage(name, key, resumable=True) as folder:
                said = work(folder)
            self.session.say(name, f"{said}   {clock(time.monotonic() - started)}")
        return self.inner.folder(name)

    def base(self) -> Path:
        """Numbers of the untuned model, whose answers the run has."""
        answers = self.outer.folder(BASE)
        return self._numbers(BASE, lambda: self.base_model, answers, self.inputs.keys["base"])

    def method(self, method: Method, before: dict[str, Chosen]) -> tuple[Chosen, Path]:
        """(what the search chose, where the numbers lie) of one method."""
        settings = _settings(method, before)
        inputs = [self.inputs.keys[name] for name in ("answers", *method.inputs)]
        key = config_key(self.config, FITTING, [
            self.inputs.hashes["weights"], self.inputs.hashes["data"], *inputs, method.name,
            repr([sorted(setting.items()) for setting in settings]),
        ])  # fmt: skip
        fit = self.stage(f"fit-{method.name}", key, lambda folder: _said(
            search(self.material, method, settings, folder)))  # fmt: skip
        chosen, learned = read_chosen(fit)

        @functools.cache  # not before it is needed: finished stages read no weights
        def model() -> Measured:
            return built(self.material, method, chosen.setting, learned)

        key = config_key(self.config, ANSWERING, [
            key, self.inputs.hashes["tests"], repr(self.config.compare.limit),
        ])  # fmt: skip

        def answer(folder: Path) -> str:
            given = method.answered(self.material, chosen.setting)
            if given is not None:
                take_over(*given, method.name, folder)
            return answer_all(model(), self.prompts, self.choices, folder)

        answers = self.stage(f"answers-{method.name}", key, answer)
        return chosen, self._numbers(method.name, model, answers, key)

    def _numbers(
        self, name: str, model: Callable[[], Measured], answers: Path, made_from: str
    ) -> Path:
        measuring = self.inputs.hashes["measuring"]
        limit = repr(self.config.compare.limit)
        key = config_key(self.config, MEASURING, [made_from, measuring, limit])

        def work(folder: Path) -> str:
            measure_one(
                model(), answers, self.base_model, self.outer.folder(BASE), self.scorer,
                (self.prompts, self.choices), folder,
            )  # fmt: skip
            return f"judged by {', '.join(self.config.eval.judges)}"

        return self.stage(f"numbers-{name}", key, work)

    def tables(
        self,
        methods: Sequence[Method],
        found: dict[str, Chosen],
        left_out: dict[str, str],
        folders: Sequence[Path],
        tables: Sequence[str],
    ) -> dict[str, Any]:
        """All numbers together, and the tables made of them."""
        made_from = [self.keys[folder.name] for folder in folders]
        numbers = self.stage("numbers", config_key(self.config, [], made_from),
                             lambda folder: _merged(folders, folder))  # fmt: skip
        labels = {method.name: method.label for method in methods}
        told = [repr(sorted(texts.items())) for texts in (labels, left_out)]
        key = config_key(
            self.config, ["name", "seed", "compare", "model.source", "tune"],
            [*made_from, *tables, self.inputs.keys["select"], *told],
        )  # fmt: skip
        report = self.stage("report", key, lambda folder: write_comparison(
            self.config, self.session.checkpoint.config, numbers, list(found.values()), labels,
            left_out, tables, self.outer.folder("select"), folder))  # fmt: skip
        for table in read_tables(report):
            self.session.console.print()
            self.session.console.print(screen(table))
        self.session.console.print()
        self.session.say("tables", f"{report / 'comparison.md'}   (also CSV and LaTeX, one each)")
        rows = read_rows(report / "results.json")
        return {
            "run": str(self.config.folder),
            "search": {name: dataclasses.asdict(chosen) for name, chosen in found.items()},
            "labels": labels,
            "left_out": left_out,
            "results": [dataclasses.asdict(row) for row in rows],
        }


def _settings(method: Method, before: dict[str, Chosen]) -> list[Setting]:
    """The settings to try; those of a follower start from what its leader's search chose."""
    if method.follows is None:
        return list(method.settings)
    if method.follows not in before:
        raise UnusableMethodError(f"{method.follows}, whose settings it takes, is left out")
    return [before[method.follows].setting | setting for setting in method.settings]


def _said(chosen: Chosen) -> str:
    setting = ", ".join(f"{name} {value}" for name, value in chosen.setting.items())
    shown = setting if len(setting) <= 60 else f"{setting[:57]}..."
    return f"{chosen.tried} settings tried, best on validation: {shown or 'the only one'}"


def _merged(folders: Sequence[Path], out: Path) -> str:
    merge(folders, out)
    return f"{len(folders)} models together"
