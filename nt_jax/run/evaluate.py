"""Measuring without tuning: any checkpoint, or the tuned model of a run beside its base."""

import hashlib
import json
import shlex
from pathlib import Path

from nt_jax import processes
from nt_jax.checkpoints.checkpoint import fingerprint
from nt_jax.config.schema import RunConfig
from nt_jax.console import say, show
from nt_jax.errors import RunError
from nt_jax.eval.answering import answer_all, check_scorer, check_tests
from nt_jax.eval.judges.judge import check_judges
from nt_jax.eval.lm_eval.paired import check_tasks, join_tasks, run_paired
from nt_jax.eval.measure import labels_with_counts, read_lines
from nt_jax.eval.metrics.result import in_order, read_rows
from nt_jax.eval.prompts import Tests, read_tests, tests_hash
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import devices
from nt_jax.report.run import SETTINGS
from nt_jax.report.terminal import screen_table
from nt_jax.run import pipeline
from nt_jax.run.dry_run import header, model_line
from nt_jax.run.preflight import measuring_hash
from nt_jax.run.said import say_results
from nt_jax.run.stages import write_measured
from nt_jax.run.subjects import (
    check_served,
    identity,
    served_notes,
    short_name,
    subjects,
    told_of,
)
from nt_jax.rundir import RunDirectory, Stage, read_facts

# Settings that scores of eval.harness depend on.
TASKS = (
    "model.dtype",
    "model.frozen",
    "model.thinking",
    "eval.harness",
    "eval.harness_folder",
    "eval.harness_chat",
    "eval.system_prompt",
    "eval.limit",
)
HARNESS = "harness"  # in hashes, where there is an eval.harness_folder


def evaluate_model(
    config: RunConfig,
    source: str,
    beside_base: bool = False,
    adapter: str | None = None,
    verify: bool = False,
    dry_run: bool = False,
) -> Path:
    """Answer the test sets with the model at `source`, judge, report; returns the run directory.

    `source` is anything that model.source may be, or a run directory, whose base and tuned models
    are both measured. `beside_base` also measures the config's own model, to compare with.
    `adapter`: a PEFT adapter, or factors, put onto the model at `source`; `beside_base` then
    measures that model without it. Answers go on where an earlier call with the same settings
    stopped. `dry_run`: all that is checked before any work, and what would be asked of whom.
    """
    measured, called = adapter or source, adapter or source
    if config.eval.engine == "openai":
        check_served(source, beside_base, adapter)
        called, names = config.eval.served[-1], ", ".join(config.eval.served)
        measured = f"{config.eval.url} {names}"
    folder = Path(config.run_dir or Path("runs") / f"{config.name}-eval-{short_name(called)}")
    show(header(config.model_copy(update={"run_dir": str(folder)})))
    check_judges(config.eval.judges)
    config, models, own = subjects(config, source, beside_base, adapter)
    tests = read_tests(config.eval)
    for subject in models:
        check_tests(subject.model, tests, config.eval)
    if config.eval.harness:
        check_tasks(config.eval)
    scorer = pipeline.scorer_of(config, own)
    if scorer is not None and scorer is not own:
        check_scorer(scorer, tests, config.eval)
    hashes = {
        "tests": tests_hash(tests, config.eval),
        "scored_by": fingerprint(scorer.checkpoint) if scorer else "",
        "measuring": measuring_hash(config, tests),
    } | {f"model {subject.name}": identity(subject, adapter) for subject in models}  # fmt: skip
    if config.eval.harness and config.eval.harness_folder is not None:
        hashes[HARNESS] = harness_hash(Path(config.eval.harness_folder).expanduser(), folder)
    check_same_source(folder, measured)
    if dry_run:
        asked = f"{len(tests.prompts):,} requests, {len(tests.choices):,} choice questions"
        for subject in models:
            say(subject.name, f"{model_line(subject.model.checkpoint.config)}   {asked}")
        say("dry run", "nothing was written")
        return folder
    with RunDirectory(folder, verify) as directory:
        told = {"config": config.model_dump(mode="json"), "source": measured, "base": source}
        told |= {"measured": [*map(told_of, models)], "devices": devices(), "hashes": hashes}
        told["command"] = _command(source, beside_base, adapter)
        table = stage_table(config, directory, models, scorer, tests)
        keys = pipeline.stage_keys(config, table, hashes)
        processes.check_same(json.dumps(keys), "files or settings")
        directory.record(**told, keys=keys)
        for subject in models:
            say(subject.name, model_line(subject.model.checkpoint.config))
        for stage in table:
            directory.carry(stage, keys[stage.name])
        finish(config, directory)
        pipeline.check_finished(directory)
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
    tasks = {f"tasks-{subject.name}": subject for subject in models if config.eval.harness}
    own = (HARNESS,) * (config.eval.harness_folder is not None)

    def answered() -> list[tuple[ModelUnderTest, Path]]:
        return [(subject, directory.read(places[subject.name])) for subject in models]

    def measured(to: Path) -> str:
        if tasks:
            join_tasks([directory.read(name) for name in tasks], config.eval, to)
        return pipeline.measure_stage(answered(), tests, config, scorer, to)

    return [
        *(
            Stage(
                places[subject.name], pipeline.ANSWERING, (f"model {subject.name}", "tests"),
                lambda to, subject=subject: answer_all(
                    subject, tests, config.eval, to, keep_on=True),
            )
            for subject in models
        ),
        *(
            Stage(
                name, TASKS, (f"model {subject.name}", *own),
                lambda to, subject=subject: run_paired(
                    subject, config.eval, config.model.thinking, to),
            )
            for name, subject in tasks.items()
        ),
        Stage(
            "eval", pipeline.MEASURING, (*places.values(), *tasks, "scored_by", "measuring"),
            measured,
        ),
        Stage(
            "report", ("name", "seed", "eval.gate_margin"), ("eval",),
            lambda to: report_stage(config, directory, to),
        ),
    ]  # fmt: skip


def harness_hash(folder: Path, run_dir: Path) -> str:
    """sha256 of the files in eval.harness_folder, by name: tasks, their code, data beside them.

    Neither hidden files count, nor what Python compiles, nor the run directory, should it lie
    there: they change by the measuring itself.
    """
    folder, run_dir, digest = folder.resolve(), run_dir.resolve(), hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if hidden or run_dir in file.parents or not file.is_file():
            continue
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(json.dumps(["/".join(parts), content]).encode())
    return digest.hexdigest()


def check_same_source(folder: Path, source: str) -> None:
    """Raises a RunError if `folder` holds a run, or the evaluation of a model from elsewhere."""
    facts = read_facts(folder)
    if "train" in facts.get("keys", {}):
        raise RunError(
            f"{folder} holds a run, whose report an evaluation would replace. Choose "
            "another folder with --run-dir DIR; nothing was changed."
        )
    before = facts.get("source", source)
    if _place(before) != _place(source):
        raise RunError(
            f"{folder} holds the evaluation of {before}, which that of {source} would "
            "replace. Choose another folder with --run-dir DIR; nothing was changed."
        )


def _place(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def answers_of(subject: ModelUnderTest) -> str:
    """The stage that holds a model's answers."""
    return f"answers-{subject.name}"


def report_stage(config: RunConfig, directory: RunDirectory, folder: Path) -> str:
    """results.json, report.md and report.html of the models that were measured."""
    notes = []
    if config.eval.engine == "openai":
        files = (directory.folder("eval") / f"{name}.jsonl" for name in ("answers", "choices"))
        notes = served_notes([row for file in files for row in read_lines(file)])
        say("served", "; ".join(notes))
    return write_measured(directory, config, folder, directory.facts()["command"], notes)


def _command(source: str, beside_base: bool, adapter: str | None) -> str:
    """What measures the same once more, from the settings that lie beside the report."""
    words = ["python", "-m", "nt_jax.eval", "--config", SETTINGS, "--model", source]
    words += ["--adapter", adapter] if adapter else []
    words += ["--beside-base"] if beside_base else []
    return shlex.join([*words, "--run-dir", "again"])


def finish(config: RunConfig, directory: RunDirectory) -> None:
    """The last screen: the table, and where everything lies."""
    rows = read_rows(directory.folder("report") / "results.json")
    show()
    show(screen_table(rows, labels_with_counts(directory.folder("eval"), config.eval.labels)))
    show()
    say_results(directory, config)
    scored = in_order(row.judge for row in rows if row.metric == "perplexity")
    if scored:
        say("scorer", f"{', '.join(scored)}   (perplexity)")
