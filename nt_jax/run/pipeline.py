"""A run from checkpoint to report, top to bottom; finished stages are skipped.

load > own answers > attribute > select > tune > export > evaluate > report
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from nt_jax import processes
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig, config_key
from nt_jax.console import say, show
from nt_jax.data.training import Parts
from nt_jax.errors import RunError, UnfinishedError
from nt_jax.eval.answering import answer_all
from nt_jax.eval.judges.judge import Judge, judges_to_open, open_judge
from nt_jax.eval.measure import measure
from nt_jax.eval.metrics.result import BASE
from nt_jax.eval.prompts import Tests
from nt_jax.eval.under_test import ModelUnderTest, tuned_model
from nt_jax.finished import holds_sweep
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import devices
from nt_jax.run import stages
from nt_jax.run.attribute import attribute_all
from nt_jax.run.cached import note_made
from nt_jax.run.contrast import contrast
from nt_jax.run.dry_run import header, model_line
from nt_jax.run.epochs import reuse_epochs
from nt_jax.run.export import export_stage, run_factors, show_numbers
from nt_jax.run.hashes import record_results
from nt_jax.run.kept import Kept, kept_at
from nt_jax.run.log import logged
from nt_jax.run.model import chat_model
from nt_jax.run.preflight import Inputs, read_inputs
from nt_jax.run.repeat import ON_HUB, sources_on_hub
from nt_jax.run.said import finish, say_about_inputs, say_departures, say_time
from nt_jax.run.start import start_factors
from nt_jax.rundir import FAILED, RunDirectory, Stage
from nt_jax.train.tuning_data import TuningData, tuning_data

# Settings that answers to test sets depend on, and the numbers made of them.
ANSWERING = (
    "model.dtype", "model.frozen", "model.thinking", "eval.max_new_tokens", "eval.engine",
    "eval.system_prompt",
)  # fmt: skip
MEASURING = (
    "eval.judges", "eval.perplexity", "eval.scorer", "eval.kl", "eval.datasets", "eval.extra",
)  # fmt: skip
# Settings that the slopes behind the contrastive score depend on.
SLOPES = (
    "neurons.first_layer", "tune.metric_requests", "tune.answer_tokens",
    "tune.local_fraction", "tune.sounds_harmful_fraction",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Start:
    """Another run, whose learned factors tuning begins at, and the key that they have there."""

    run: Path
    key: str


def run(
    config: RunConfig,
    until: str | None = None,
    inputs: Inputs | None = None,
    beside: Sequence[Path] = (),
    start: Start | None = None,
    verify: bool = False,
) -> None:
    """Carry a run to its report, or to the end of stage `until`; `inputs` are read if not given.

    Stages that other runs, `beside` this one, have made from the same things are taken over.
    Tuning begins at the factors of `start`, if there is one. `verify`: every file of the stages
    that are kept is read and compared with its sha256.
    """
    show(header(config))
    inputs = inputs or read_inputs(config)
    # Not before all input is known to be sound.
    with RunDirectory(config.folder, verify) as directory:
        swept = holds_sweep(directory.path)
        if swept or "measured" in directory.facts():
            what = "a sweep" if swept else "the evaluation of a model"
            raise RunError(
                f"{config.folder} holds {what}, which a run would replace. Choose another folder "
                "with run_dir=DIR; nothing was changed."
            )
        table, keys = begin(config, directory, inputs, start)
        say("model", model_line(inputs.model.checkpoint.config))
        if config.tune.algorithm == "paper":
            say_departures(config)
        say_about_inputs(config, inputs)
        names = [stage.name for stage in table]
        ahead = names[: names.index(until) + 1] if until else names
        fresh = [name for name in ahead if not directory.done(name, keys[name], beside)]
        say_time(config, inputs, keys, fresh, directory)
        with logged(config, directory.path):
            for stage in table:
                directory.carry(stage, keys[stage.name], beside)
                if stage.name in fresh:
                    note_made(config, keys, stage.name)
                if stage.name == until:
                    return
        if not directory.unfinished:
            places = (directory.read("select"), directory.read("train"))
            kept = kept_at(config.tune, *places, config.export.strength)
            if processes.first():
                show_numbers(inputs.model, kept, config, directory.path)
                record_results(directory, inputs.model.checkpoint, kept.factors)
        finish(config, directory, table)
        check_finished(directory)


def check_finished(directory: RunDirectory) -> None:
    """Raises an UnfinishedError where prompts or judge calls failed, with what to do."""
    files = [directory.folder(name) / FAILED for name in sorted(directory.unfinished)]
    if marked := [file for file in files if file.exists()]:
        raise UnfinishedError(
            f"prompts or judge calls failed ({', '.join(map(str, marked))} say which and why); "
            "numbers are made of the rest. Repeat this command: it tries them again, and no others."
        )


def begin(
    config: RunConfig, directory: RunDirectory, inputs: Inputs, start: Start | None = None
) -> tuple[tuple[Stage, ...], dict[str, str]]:
    """(the stages, their keys) of a run, once run.json says what they are made from."""
    table, keys = table_and_keys(config, directory, inputs, start)
    processes.check_same(json.dumps(keys), "files or settings")
    directory.record(
        config=config.model_dump(mode="json"), seed=config.seed, devices=devices(),
        made_in=os.getcwd(), begun=None if start is None else start.key,
        hashes=inputs.hashes, keys=keys, overlap=inputs.data.overlap,
        attack_overlap=inputs.data.attack_overlap,
        notes=[*inputs.data.notes, *inputs.data.repeats], **{ON_HUB: sources_on_hub(config)},
    )  # fmt: skip
    return table, keys


def table_and_keys(
    config: RunConfig, directory: RunDirectory, inputs: Inputs, start: Start | None = None
) -> tuple[tuple[Stage, ...], dict[str, str]]:
    """The same, nothing written."""
    judge, given = open_judge(config.eval.judge), (inputs.records, inputs.tests)
    table = stage_table(config, directory, inputs.model, judge, *given, start)
    known = {} if start is None else {"begun": start.key}
    return table, stage_keys(config, table, inputs.hashes | known)


def stage_table(
    config: RunConfig,
    directory: RunDirectory,
    model: ChatModel,
    judge: Judge,
    records: Parts,
    tests: Tests,
    start: Start | None = None,
) -> tuple[Stage, ...]:
    """The stages in their order: settings they read, what they are made from, and their work."""
    at, tune = directory.read, config.tune
    contrastive = config.attribution.score == CONTRASTIVE
    scored = ("attribution.score", *SLOPES) if contrastive else ("attribution",)
    common = ("seed", "model.dtype", "model.frozen", "model.thinking", "eval.judge")
    tested = model.under(config.eval.system_prompt)
    base = ModelUnderTest(BASE, tested)

    def kept() -> Kept:
        return kept_at(tune, at("select"), at("train"), config.export.strength)

    def tuned() -> ModelUnderTest:
        return tuned_model(tested, kept().factors)

    def data() -> TuningData:
        return tuning_data(model, records, tune, config.data, judge=judge, folder=at("answers"))

    def attribute(to: Path) -> str:
        if contrastive:
            return contrast(model, data().pools, config.neurons.first_layer, tune, to)
        train = records["train"]
        return attribute_all(model, train, at("answers"), config.attribution, config.data, to)

    learning = (
        (*common, "tune", "data"),
        ("weights", "data", "select", "answers", *(["begun"] if start else [])),
    )

    def train(to: Path) -> str:
        if reuse_epochs(config, directory, *learning, to):
            say("epochs", "as before: only what is chosen after them is chosen anew")
        first = config.neurons.first_layer if contrastive else None
        slopes = stages.slopes_of(at("attribute"), at("select"), first, model)
        known = None if start is None else run_factors(start.run, 1.0)[1]  # as learned
        return stages.tune_factors(
            model, judge, at("select"), data(), tune, config.seed, to, slopes, known
        )

    return (
        Stage(
            "answers",
            (*common, "data", "tune.target", "tune.opening", "tune.answer_tokens",
             "tune.attacked_harmless_fraction"),
            ("weights", "data"),
            lambda to: stages.own_answers(model, judge, records, config, to),
            resumable=False,
        ),
        Stage(
            "attribute", (*common, *scored, "data"),
            ("weights", "data", "answers", "score"),
            attribute,
        ),
        Stage(
            "select", ("neurons",),
            ("weights", "data", "attribute", *("start",) * bool(config.neurons.source)),
            lambda to: stages.select_neurons(
                model, at("attribute"), start_factors(config, model.checkpoint) or config.neurons,
                config.name, to, directory.folder("select")),
            resumable=False, outcome=("neurons.csv",),  # the rest is for people
        ),
        Stage(
            "train", *learning, train,
            outcome=("neurons.csv",),  # the names of a checkpoint's files are random
        ),
        Stage(
            "export", ("export",), ("weights", "data", "train"),
            lambda to: export_stage(model, kept(), config, directory.path, to),
            resumable=False, later=("hf/README.md",),  # `show_numbers` writes it once more
        ),
        Stage(
            "base", ANSWERING, ("weights", "data", "tests"),
            lambda to: answer_all(base, tests, config.eval, to, keep_on=True),
        ),
        Stage(
            "tuned", (*ANSWERING, "export.strength"), ("weights", "data", "tests", "train"),
            lambda to: answer_all(tuned(), tests, config.eval, to, keep_on=True),
        ),
        Stage(
            "eval", MEASURING, ("weights", "data", "base", "tuned", "measuring"),
            lambda to: measure_stage(
                [(base, at("base")), (tuned(), at("tuned"))], tests, config,
                scorer_of(config, tested), to),
        ),
        Stage(
            "report", ("name", "eval.gate_margin"), ("weights", "data", "eval", "export"),
            lambda to: stages.write_run_report(
                directory, config, model.checkpoint.config.layers, to),
            resumable=False,
        ),
    )  # fmt: skip


def stage_keys(
    config: RunConfig, table: Sequence[Stage], hashes: Mapping[str, str]
) -> dict[str, str]:
    """The key of each stage: a hash of the settings that it reads and of what it is made from."""
    known = dict(hashes)
    for stage in table:
        inputs = [known[name] for name in stage.made_from]
        known[stage.name] = config_key(config, stage.reads, inputs)
    return {stage.name: known[stage.name] for stage in table}


def scorer_of(config: RunConfig, model: ChatModel) -> ChatModel | None:
    """The model that scores answers: that of eval.scorer, else `model`; None if none is to.

    Served answers are scored by none: their likelihoods would be of other weights.
    """
    if not config.eval.perplexity or config.eval.engine == "openai":
        return None
    source = config.eval.scorer
    if source in (None, config.model.source):
        return model
    return chat_model(config, source).under(config.eval.system_prompt)


def measure_stage(
    models: Sequence[tuple[ModelUnderTest, Path]],
    tests: Tests,
    config: RunConfig,
    scorer: ChatModel | None,
    folder: Path,
    base: tuple[ModelUnderTest, Path] | None = None,
    keep_on: bool = True,
) -> str:
    """Verdicts on the models' answers, and what the scorer thinks of them.

    `keep_on`: judge calls that fail are marked, and answers that are missing left out.
    """
    opened = partial(chat_model, config, thinking=False)  # a guard has room for one word
    judges = judges_to_open(config.eval.judges, opened)
    measure(
        models, tests, config.eval, folder,
        judges=judges, scorer=scorer, base=base, keep_on=keep_on,
    )  # fmt: skip
    return f"judged by {', '.join(config.eval.judges)}"
