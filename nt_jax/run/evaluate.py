"""Measuring without tuning: any checkpoint, or the tuned model of a run beside its base."""

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from nt_jax.config.schema import RunConfig, config_key
from nt_jax.errors import RunError
from nt_jax.eval.answering import Measured, answer_all
from nt_jax.eval.judges.verdicts import check_judges, measuring_hash
from nt_jax.eval.measure import measure, result_rows
from nt_jax.eval.metrics.rows import BASE, TUNED, in_order, read_rows
from nt_jax.eval.prompts import prompts_hash
from nt_jax.generate.session import Session, devices, fingerprint
from nt_jax.generate.vllm_engine import check_vllm
from nt_jax.report.run import write_report
from nt_jax.report.terminal import judge_names, screen_table
from nt_jax.run.dry_run import header, model_line
from nt_jax.run.pipeline import MEASURING, clock, run_factors
from nt_jax.rundir import RunDirectory, exported_model

ANSWERING = ("model.dtype", "eval.max_new_tokens", "eval.engine")


def evaluate(config: RunConfig, source: str, console: Console, beside_base: bool = False) -> Path:
    """Answer the test sets with the model at `source`, judge, report; returns the run directory.

    `source` is anything that model.source may be, or a run directory, whose base and tuned models
    are both measured. `beside_base` also measures the config's own model, to compare with. Answers
    go on where an earlier call with the same settings stopped.
    """
    folder = Path(config.run_dir or Path("runs") / f"{config.name}-eval-{short_name(source)}")
    shown = config.model_copy(update={"run_dir": str(folder)})
    console.print(header(shown), highlight=False, soft_wrap=True)
    check_judges(config)
    models, scorer = _models(config, source, console, beside_base)
    if config.eval.engine == "vllm":
        for model in models:
            check_vllm(model.session.checkpoint)
    first = models[0].session
    tests = prompts_hash(first.prompts, first.choices, first.config.eval)
    weights = [_identity(model) for model in models]
    for model in models:
        model.session.check_tests()
    with RunDirectory(folder) as directory:
        check_same_source(directory, source)
        settings = first.config.model_dump(mode="json")
        directory.record(
            config=settings, source=source, measured=[*map(_told, models)], devices=devices(),
            hashes={"weights": weights, "tests": tests},
        )  # fmt: skip
        for model in models:
            first.say(model.name, model_line(model.session.checkpoint.config))
        keys = [
            config_key(config, ANSWERING, [weight, model.name, tests])
            for weight, model in zip(weights, models, strict=True)
        ]
        for key, model in zip(keys, models, strict=True):
            _stage(first, directory, answers_of(model), key, lambda path, model=model: answer_all(
                model, first.prompts, first.choices, path))  # fmt: skip
        scored_by = fingerprint(scorer.checkpoint) if scorer else ""
        key = config_key(config, MEASURING, [*keys, scored_by, measuring_hash(config)])
        _stage(first, directory, "eval", key, lambda path: _measure(
            first, models, scorer, directory, path))  # fmt: skip
        _stage(first, directory, "report", config_key(config, ["name", "seed"], [key]),
               lambda path: _report(first.config, source, directory, path))  # fmt: skip
        _finish(first, directory)
    return folder


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


def answers_of(model: Measured) -> str:
    """The stage that holds a model's answers."""
    return f"answers-{model.name}"


def _models(
    config: RunConfig, source: str, console: Console, beside_base: bool
) -> tuple[list[Measured], Session | None]:
    """(what is measured, the one to compare with first; who scores perplexity)."""
    if (Path(source) / "run.json").is_file():
        tuned_on, scale_LF = run_factors(Path(source), console)
        session = Session(config.model_copy(update={"model": tuned_on.model}), console)
        exported = exported_model(Path(source)) if config.eval.engine == "vllm" else None
        tuned = Measured(TUNED, session, jnp.asarray(scale_LF), exported)
        models = [Measured(BASE, session), tuned]
    else:
        base = Session(config, console)
        same = source == config.model.source
        own = Measured(short_name(source), base if same else base.of(source))
        models = [Measured(BASE, base), own] if beside_base and not same else [own]
        session = base
    scorer = None
    if config.eval.perplexity:
        scorer = session.of(config.eval.scorer) if config.eval.scorer else session
    return models, scorer


def _identity(model: Measured) -> str:
    """sha256 of a model's weights and factors."""
    factors = b"" if model.scale_LF is None else np.asarray(model.scale_LF).tobytes()
    weights = fingerprint(model.session.checkpoint)
    return hashlib.sha256(weights.encode() + factors).hexdigest()


def _told(model: Measured) -> dict:
    """What run.json says about a measured model."""
    source = model.session.config.model
    return {"name": model.name, **source.model_dump(), "factors": model.scale_LF is not None}


def _stage(session: Session, directory: RunDirectory, name: str, key: str, work) -> None:
    """Do `work(folder)` unless it is done; every stage goes on where it was interrupted."""
    started = time.monotonic()
    if directory.finished(name, key):
        session.say(name, "kept from before")
        return
    with directory.stage(name, key, resumable=True) as folder:
        said = work(folder)
    session.say(name, f"{said}   {clock(time.monotonic() - started)}")


def _measure(
    session: Session,
    models: Sequence[Measured],
    scorer: Session | None,
    directory: RunDirectory,
    folder: Path,
) -> str:
    where = [(model, directory.folder(answers_of(model))) for model in models]
    measure(session, where, scorer, session.prompts, session.choices, folder)
    return f"judged by {', '.join(session.config.eval.judges)}"


def _report(config: RunConfig, source: str, directory: RunDirectory, folder: Path) -> str:
    rows, answers = result_rows(directory.folder("eval"), config.seed)
    facts = directory.facts()
    settings = config.model_dump(mode="json")
    shown = settings | {"model": settings["model"] | {"source": source}}
    labels = config.eval.labels
    write_report(folder, rows, answers, shown, directory.seconds(), machine=facts, labels=labels)
    return f"{len(rows)} numbers, judge {judge_names(rows) or 'none'}"


def _finish(session: Session, directory: RunDirectory) -> None:
    folder = directory.path
    rows = read_rows(folder / "report" / "results.json")
    session.console.print()
    session.console.print(screen_table(rows, session.config.eval.labels))
    session.console.print()
    session.say("report", f"{folder / 'report' / 'report.md'}   (and report.html)")
    session.say("answers", f"{folder / 'eval' / 'answers.jsonl'}")
    scored = in_order(row.judge for row in rows if row.metric == "perplexity")
    if scored:
        session.say("scorer", f"{', '.join(scored)}   (perplexity)")
