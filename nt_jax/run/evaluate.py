"""Measuring without tuning: any checkpoint, or the tuned model of a run beside its base."""

import hashlib
import re
import shlex
from pathlib import Path

import numpy as np

from nt_jax.checkpoints.checkpoint import fingerprint
from nt_jax.config.schema import RunConfig
from nt_jax.console import say, show
from nt_jax.errors import ConfigError, RunError
from nt_jax.eval.answering import answer_all, check_tests
from nt_jax.eval.judges.judge import check_judges
from nt_jax.eval.metrics.result import BASE, TUNED, in_order, read_rows
from nt_jax.eval.prompts import Tests, read_tests, tests_hash
from nt_jax.eval.under_test import ModelUnderTest, adapted_model, tuned_model
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import devices
from nt_jax.report.run import SETTINGS
from nt_jax.report.terminal import screen_table
from nt_jax.run import pipeline
from nt_jax.run.dry_run import header, model_line
from nt_jax.run.export import run_factors
from nt_jax.run.preflight import measuring_hash
from nt_jax.run.stages import chat_model, write_measured
from nt_jax.rundir import RunDirectory, Stage


def evaluate_model(
    config: RunConfig, source: str, beside_base: bool = False, adapter: str | None = None
) -> Path:
    """Answer the test sets with the model at `source`, judge, report; returns the run directory.

    `source` is anything that model.source may be, or a run directory, whose base and tuned models
    are both measured. `beside_base` also measures the config's own model, to compare with.
    `adapter`: a PEFT adapter, or factors, put onto the model at `source`; `beside_base` then
    measures that model without it. Answers go on where an earlier call with the same settings
    stopped.
    """
    measured = adapter or source
    folder = Path(config.run_dir or Path("runs") / f"{config.name}-eval-{short_name(measured)}")
    show(header(config.model_copy(update={"run_dir": str(folder)})))
    check_judges(config.eval.judges)
    config, models, own = subjects(config, source, beside_base, adapter)
    tests = read_tests(config.eval)
    for subject in models:
        check_tests(subject.model, tests, config.eval)
    scorer = pipeline.scorer_of(config, own)
    hashes = {
        "tests": tests_hash(tests, config.eval),
        "scored_by": fingerprint(scorer.checkpoint) if scorer else "",
        "measuring": measuring_hash(config),
    } | {f"model {subject.name}": identity(subject, adapter) for subject in models}  # fmt: skip
    with RunDirectory(folder) as directory:
        check_same_source(directory, measured)
        told = {"config": config.model_dump(mode="json"), "source": measured, "base": source}
        told |= {"measured": [*map(_told, models)], "devices": devices(), "hashes": hashes}
        told["command"] = _command(source, beside_base, adapter)
        directory.record(**told)
        for subject in models:
            say(subject.name, model_line(subject.model.checkpoint.config))
        table = stage_table(config, directory, models, scorer, tests)
        keys = pipeline.stage_keys(config, table, hashes)
        for stage in table:
            directory.carry(stage, keys[stage.name])
        finish(config, folder)
    return folder


def stage_table(
    config: RunConfig,
    directory: RunDirectory,
    models: list[ModelUnderTest],
    scorer: ChatModel | None,
    tests: Tests,
) -> list[Stage]:
    """Each model's answers, then the numbers, then the report."""
    places = {subject.name: answers_of(subject) for subject in models}
    answered = [(subject, directory.folder(places[subject.name])) for subject in models]
    return [
        *(
            Stage(
                places[subject.name], pipeline.ANSWERING, (f"model {subject.name}", "tests"),
                lambda to, subject=subject: answer_all(subject, tests, config.eval, to),
            )
            for subject in models
        ),
        Stage(
            "eval", pipeline.MEASURING, (*places.values(), "scored_by", "measuring"),
            lambda to: pipeline.measure_stage(answered, tests, config, scorer, to),
        ),
        Stage(
            "report", ("name", "seed"), ("eval",),
            lambda to: write_measured(directory, config, to, directory.facts()["command"]),
        ),
    ]  # fmt: skip


def subjects(
    config: RunConfig, source: str, beside_base: bool, adapter: str | None = None
) -> tuple[RunConfig, list[ModelUnderTest], ChatModel]:
    """(the config, a run's model in it if a run is measured; models under test; its own model)."""
    system = config.eval.system_prompt
    if (Path(source) / "run.json").is_file():
        if adapter is not None:
            raise ConfigError(
                f"--adapter needs the model that it belongs to, not the run {source}."
            )
        tuned_on, factors = run_factors(Path(source))
        config = config.model_copy(update={"model": tuned_on.model})
        model = chat_model(config).under(system)
        return config, [ModelUnderTest(BASE, model), tuned_model(model, factors)], model
    own = chat_model(config).under(system)
    same = source == config.model.source
    other = own if same else chat_model(config, source).under(system)
    if adapter is not None:
        base = [ModelUnderTest(BASE, other)] if beside_base else []
        return config, [*base, adapted_model(other, adapter, short_name(adapter))], own
    asked = ModelUnderTest(short_name(source), other)
    beside = [ModelUnderTest(BASE, own)] if beside_base and not same else []
    return config, [*beside, asked], own


def check_same_source(directory: RunDirectory, source: str) -> None:
    """Raises a RunError if `directory` holds the evaluation of a model from elsewhere."""
    before = directory.facts().get("source", source)
    if _place(before) != _place(source):
        raise RunError(
            f"{directory.path} holds the evaluation of {before}, which that of {source} would "
            "replace. Choose another folder with --run-dir DIR; nothing was changed."
        )


def _place(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def short_name(source: str) -> str:
    """What a model's rows and folder are called: the last part of where it lies, or its run."""
    parts = [part for part in re.split(r"[/:]", source) if part not in ("", ".", "..")]
    if parts[-2:] == ["export", "hf"] and len(parts) > 2:
        parts = parts[:-2]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", parts[-1]).strip("-._") if parts else ""
    return name if name and name not in (BASE, TUNED) else "model"


def answers_of(subject: ModelUnderTest) -> str:
    """The stage that holds a model's answers."""
    return f"answers-{subject.name}"


def identity(subject: ModelUnderTest, adapter: str | None = None) -> str:
    """sha256 of a model's weights and factors, and of the adapter that may be in them."""
    factors = b"" if subject.scale_LF is None else np.asarray(subject.scale_LF).tobytes()
    weights = fingerprint(subject.model.checkpoint)
    digest = hashlib.sha256(weights.encode() + factors)
    for file in sorted(Path(adapter or "").glob("adapter_*")) if adapter else ():
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _told(subject: ModelUnderTest) -> dict:
    """What run.json says about a measured model."""
    source, factors = subject.model.checkpoint.source, subject.scale_LF is not None
    return {"name": subject.name, "source": source, "factors": factors}


def _command(source: str, beside_base: bool, adapter: str | None) -> str:
    """What measures the same once more, from the settings that lie beside the report."""
    words = ["python", "-m", "nt_jax.eval", "--config", SETTINGS, "--model", source]
    words += ["--adapter", adapter] if adapter else []
    words += ["--beside-base"] if beside_base else []
    return shlex.join([*words, "--run-dir", "again"])


def finish(config: RunConfig, folder: Path) -> None:
    """The last screen: the table, and where everything lies."""
    rows = read_rows(folder / "report" / "results.json")
    show()
    show(screen_table(rows, config.eval.labels))
    show()
    pipeline.say_results(folder)
    scored = in_order(row.judge for row in rows if row.metric == "perplexity")
    if scored:
        say("scorer", f"{', '.join(scored)}   (perplexity)")
