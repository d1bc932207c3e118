"""One comparison under way: the stages of its methods, whoever carries them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.measure import merge, take_over
from nt_jax.compare.method import Method, Setting, UnusableMethodError
from nt_jax.compare.render import screen
from nt_jax.compare.search import Chosen, built, read_chosen, search
from nt_jax.compare.write import read_tables, write_comparison
from nt_jax.config.schema import RunConfig, config_key
from nt_jax.console import say, show
from nt_jax.errors import DataError
from nt_jax.eval.answering import answer_all
from nt_jax.eval.metrics.result import BASE, read_rows
from nt_jax.eval.prompts import Tests
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.run import pipeline
from nt_jax.rundir import RunDirectory, Stage
from nt_jax.seal import read_seal

FITTING = (
    "seed", "model.dtype", "model.thinking", "eval.judge", "tune", "data", "neurons.first_layer",
    "compare.search", "compare.criterion", "compare.validation",
)  # fmt: skip
TABLES = ("name", "seed", "compare", "model.source", "tune")


class Bench:
    """The stages of one comparison, and what is `known` to stand for those that are done.

    They lie in `inner`; those that folders `beside` it hold finished are taken over. The run that
    it is about lies in `outer`, which is only read.
    """

    def __init__(
        self,
        config: RunConfig,
        inputs: pipeline.Inputs,
        outer: RunDirectory,
        inner: RunDirectory,
        beside: Sequence[Path] = (),
    ) -> None:
        self.config, self.outer, self.inner, self.beside = config, outer, inner, beside
        self.data = FittingData(config, inputs, outer)
        tested = inputs.model.under(config.eval.system_prompt)
        asked = dataclasses.replace(inputs, model=tested)
        self.testing = FittingData(config, asked, outer)  # asks the tests
        self.tests: Tests = inputs.tests.first(config.compare.limit)
        self.base = ModelUnderTest(BASE, tested)
        limit = repr(config.compare.limit)
        of_run = {n: tied(key, outer.folder(n)) for n, key in outer.facts()["keys"].items()}
        self.known = inputs.hashes | of_run | {"limit": limit}

    def stage(
        self, name: str, reads: Sequence[str], made_from: Sequence[str], work: Callable[[Path], str]
    ) -> Path:
        """The folder of one stage, once it is done; `made_from` are those `known` and hashes."""
        key = config_key(self.config, reads, made_from)
        folder = self.inner.carry(Stage(name, tuple(reads), (), work), key, self.beside)
        self.known[name] = tied(key, folder)
        return folder

    def method(self, method: Method, settings: Sequence[Setting]) -> tuple[Chosen, Path]:
        """(what the search chose, where the numbers lie) of one method.

        Raises an UnusableMethodError where it cannot be fitted, or a test prompt be asked its way.
        """
        known, name = self.known, method.name
        tried = repr([sorted(setting.items()) for setting in settings])
        inputs = [known[part] for part in ("weights", "data", "answers", *method.inputs)]
        fit = self.stage(
            f"fit-{name}", (*FITTING, *method.reads), [*inputs, name, tried],
            lambda to: said(method, search(self.data, method, settings, to)),
        )  # fmt: skip
        chosen, learned = read_chosen(fit)

        @functools.cache  # not before it is needed: finished stages read no weights
        def model() -> ModelUnderTest:
            return built(self.testing, method, chosen.setting, learned)

        given = method.answered(self.data, chosen.setting)

        def answer(folder: Path) -> str:
            if given is not None:
                take_over(*given, name, folder)
            try:
                return answer_all(model(), self.tests, self.config.eval, folder)
            except DataError as error:  # the untuned model has answered them: it is the method's
                raise UnusableMethodError(str(error)) from error

        made_from = [known[f"fit-{name}"], known["tests"], known["limit"]]
        made_from += [] if given is None else [known[given[1]]]
        answers = self.stage(f"answers-{name}", pipeline.ANSWERING, made_from, answer)
        return chosen, self.numbers(name, model, answers, known[f"answers-{name}"])

    def numbers(
        self, name: str, model: Callable[[], ModelUnderTest], answers: Path, key: str
    ) -> Path:
        """Where the numbers of one model lie, once its answers are judged; `key` is theirs."""
        base = (self.base, self.outer.folder(BASE))
        made_from = [key, self.known[BASE], self.known["measuring"], self.known["limit"]]

        def measure(to: Path) -> str:
            measured = [(model(), answers)]
            scorer = pipeline.scorer_of(self.config, self.base.model)
            return pipeline.measure_stage(
                measured, self.tests, self.config, scorer, to, base, keep_on=False
            )

        return self.stage(f"numbers-{name}", pipeline.MEASURING, made_from, measure)

    def tables(
        self,
        found: Mapping[str, Chosen],
        methods: Mapping[str, Method],
        left_out: Mapping[str, str],
        folders: Sequence[Path],
    ) -> dict[str, Any]:
        """All numbers together, and the tables made of them."""
        made_from = [self.known[folder.name] for folder in folders]
        numbers = self.stage("numbers", (), made_from, lambda to: merge(folders, to))
        labels = {name: method.label for name, method in methods.items()}
        settings = {name: methods[name].words(found[name].setting) for name in methods}
        told = [repr(sorted(texts.items())) for texts in (labels, left_out, settings)]
        size = self.base.model.checkpoint.config
        report = self.stage(
            "report", TABLES, [*made_from, self.known["select"], *told],
            lambda to: write_comparison(
                self.config, size, numbers, list(found.values()), methods, left_out,
                self.outer.folder("select"), to),
        )  # fmt: skip
        for table in read_tables(report):
            show()
            show(screen(table))
        show()
        say("tables", f"{report / 'comparison.md'}   (also CSV and LaTeX, one each)")
        rows = read_rows(report / "results.json")
        return {
            "run": str(self.config.folder),
            "search": {name: dataclasses.asdict(chosen) for name, chosen in found.items()},
            "labels": labels,
            "left_out": dict(left_out),
            "results": [dataclasses.asdict(row) for row in rows],
        }


def tied(key: str, folder: Path) -> str:
    """What stands for a stage: its key and, once it lies in `folder`, what came of it.

    A stage that was made again, on another machine, may differ in its last bits.
    """
    seal = read_seal(folder)
    return key if seal is None or seal.digest is None else f"{key} {seal.digest}"


def settings_of(method: Method, before: Mapping[str, Chosen]) -> list[Setting]:
    """The settings to try; those of a follower start from what its leader's search chose."""
    if method.follows is None:
        return list(method.settings)
    if method.follows not in before:
        raise UnusableMethodError(f"{method.follows}, whose settings it takes, is left out")
    return [before[method.follows].setting | setting for setting in method.settings]


def said(method: Method, chosen: Chosen) -> str:
    """What a search found, in one line."""
    setting = method.words(chosen.setting)
    shown = setting if len(setting) <= 60 else f"{setting[:57]}..."
    return f"{chosen.tried} settings tried, best on validation: {shown or 'the only one'}"
