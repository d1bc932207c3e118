"""A run from checkpoint to report, top to bottom; finished stages are skipped.

load > own answers > attribute > select > tune > export > evaluate > report
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from nt_jax.config.paper import as_written, departures
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.config.schema import RunConfig, config_key
from nt_jax.console import clock, say, show
from nt_jax.data.training import Parts
from nt_jax.errors import UnfinishedError
from nt_jax.eval.answering import answer_all
from nt_jax.eval.judges.judge import Judge, judges_to_open, open_judge
from nt_jax.eval.measure import labels_with_counts, measure
from nt_jax.eval.metrics.result import BASE, read_rows
from nt_jax.eval.prompts import Tests
from nt_jax.eval.under_test import ModelUnderTest, tuned_model
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import devices
from nt_jax.models.neurons import Factors
from nt_jax.report.terminal import screen_table
from nt_jax.run import stages
from nt_jax.run.attribute import attribute_all
from nt_jax.run.contrast import contrast
from nt_jax.run.dry_run import header, model_line
from nt_jax.run.export import export_stage
from nt_jax.run.preflight import Inputs, read_inputs
from nt_jax.run.stages import chat_model
from nt_jax.run.texts import beyond_vocabulary, plain_marks
from nt_jax.rundir import FAILED, RunDirectory, Stage
from nt_jax.train.tuning_data import TuningData, tuning_data

# Settings that answers to test sets depend on, and the numbers made of them.
ANSWERING = (
    "model.dtype", "model.thinking", "eval.max_new_tokens", "eval.engine", "eval.system_prompt",
)  # fmt: skip
MEASURING = (
    "eval.judges", "eval.perplexity", "eval.scorer", "eval.kl", "eval.datasets", "eval.extra",
)  # fmt: skip
# Settings that the slopes behind the contrastive score depend on.
SLOPES = (
    "neurons.first_layer", "tune.metric_requests", "tune.answer_tokens", "tune.token_decay",
    "tune.local_fraction", "tune.sounds_harmful_fraction",
)  # fmt: skip


def run(
    config: RunConfig,
    until: str | None = None,
    inputs: Inputs | None = None,
    verify: bool = False,
) -> None:
    """Carry a run to its report, or to the end of stage `until`; `inputs` are read if not given.

    `verify`: every file of the stages that are kept is read and compared with its sha256.
    """
    show(header(config))
    inputs = inputs or read_inputs(config)
    judge = open_judge(config.eval.judge)
    with RunDirectory(
        config.folder, verify
    ) as directory:  # not before all input is known to be sound
        table = stage_table(config, directory, inputs.model, judge, inputs.records, inputs.tests)
        keys = stage_keys(config, table, inputs.hashes)
        directory.record(
            config=config.model_dump(mode="json"), seed=config.seed, devices=devices(),
            hashes=inputs.hashes, keys=keys, overlap=inputs.data.overlap,
            attack_overlap=inputs.data.attack_overlap,
            notes=[*inputs.data.notes, *inputs.data.repeats],
        )  # fmt: skip
        say("model", model_line(inputs.model.checkpoint.config))
        if config.tune.algorithm == "paper":
            say_departures(config)
        say_about_data(inputs)
        for stage in table:
            directory.carry(stage, keys[stage.name])
            if stage.name == until:
                return
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


def stage_table(
    config: RunConfig,
    directory: RunDirectory,
    model: ChatModel,
    judge: Judge,
    records: Parts,
    tests: Tests,
) -> tuple[Stage, ...]:
    """The stages in their order: settings they read, what they are made from, and their work."""
    at, tune = directory.read, config.tune
    contrastive = config.attribution.score == CONTRASTIVE
    common = ("seed", "model.dtype", "model.thinking", "eval.judge")
    tested = model.under(config.eval.system_prompt)
    base = ModelUnderTest(BASE, tested)

    def factors() -> Factors:
        return stages.kept_factors(tune, at("select"), at("train"))

    def tuned() -> ModelUnderTest:
        return tuned_model(tested, factors())

    def data() -> TuningData:
        return tuning_data(model, records, tune, config.data, judge=judge, folder=at("answers"))

    def attribute(to: Path) -> str:
        if contrastive:
            return contrast(model, data().pools, config.neurons.first_layer, tune, to)
        train = records["train"]
        return attribute_all(model, train, at("answers"), config.attribution, config.data, to)

    def train(to: Path) -> str:
        first = config.neurons.first_layer if contrastive else None
        slopes = stages.slopes_of(at("attribute"), at("select"), first, model)
        return stages.tune_factors(
            model, judge, at("select"), data(), tune, config.seed, to, slopes
        )

    return (
        Stage(
            "answers",
            (*common, "data", "tune.target", "tune.answer_tokens",
             "tune.attacked_harmless_fraction"),
            ("weights", "data"),
            lambda to: stages.own_answers(model, judge, records, config, to),
            resumable=False,
        ),
        Stage(
            "attribute", (*common, "attribution", "data", *SLOPES * contrastive),
            ("weights", "data", "answers", "score"),
            attribute,
        ),
        Stage(
            "select", ("neurons",), ("weights", "data", "attribute"),
            lambda to: stages.select_neurons(
                model, at("attribute"), config.neurons, config.name, to,
                directory.folder("select")),
            resumable=False, outcome=("neurons.csv",),  # the rest is for people
        ),
        Stage(
            "train", (*common, "tune", "data"), ("weights", "data", "select", "answers"),
            train, outcome=("neurons.csv",),  # the names of a checkpoint's files are random
        ),
        Stage(
            "export", ("export",), ("weights", "data", "train"),
            lambda to: export_stage(model, factors(), config.export.dtype, to,
                                    directory.folder("export")),
            resumable=False,
        ),
        Stage(
            "base", ANSWERING, ("weights", "data", "tests"),
            lambda to: answer_all(base, tests, config.eval, to, keep_on=True),
        ),
        Stage(
            "tuned", ANSWERING, ("weights", "data", "tests", "train"),
            lambda to: answer_all(tuned(), tests, config.eval, to, keep_on=True),
        ),
        Stage(
            "eval", MEASURING, ("weights", "data", "base", "tuned", "measuring"),
            lambda to: measure_stage(
                [(base, at("base")), (tuned(), at("tuned"))], tests, config,
                scorer_of(config, tested), to),
        ),
        Stage(
            "report", ("name",), ("weights", "data", "eval", "export"),
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
    """The model that scores answers: that of eval.scorer, else `model`; None if none is to."""
    if not config.eval.perplexity:
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


def say_departures(config: RunConfig) -> None:
    """Settings of a run as the paper has it that are not the paper's."""
    found = [
        f"{row.key} = {as_written(value)} ({row.whose}: {as_written(row.paper)})"
        for row, value in departures(config.model_dump(mode="json"))
    ]
    say("algorithm", "as the paper prints it" + (f", but {'; '.join(found)}" if found else ""))


def say_about_data(inputs: Inputs) -> None:
    """Where attacks come from, what is left out or also tuned on, marks that are plain text."""
    data = inputs.data
    for note in data.notes:
        say("data", note)
    chat = inputs.model.chat
    marks = plain_marks(chat, inputs.records, inputs.tests)
    for line in (*data.shared, *marks, *beyond_vocabulary(chat)):
        say("warning", line)


def finish(config: RunConfig, directory: RunDirectory, table: Sequence[Stage]) -> None:
    """The last screen: stage times, the before/after table, where everything lies."""
    folder, seconds = directory.path, directory.seconds()
    names = [stage.name for stage in table if stage.name in seconds]
    show()
    labels = labels_with_counts(directory.read("eval"), config.eval.labels)
    show(screen_table(read_rows(directory.read("report") / "results.json"), labels))
    show()
    say("times", "   ".join(f"{name} {clock(seconds[name])}" for name in names))
    say("model", f"{folder / 'export' / 'hf'}")
    say_results(directory)


def say_results(directory: RunDirectory) -> None:
    """Where the report and the answers of a run lie."""
    say("report", f"{directory.folder('report') / 'report.md'}   (and report.html)")
    say("answers", f"{directory.folder('eval') / 'answers.jsonl'}")
