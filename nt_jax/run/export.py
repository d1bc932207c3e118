"""Factors of a run turned into a checkpoint: as its stage, and by the command `export`."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from nt_jax.checkpoints.factors import read_factors
from nt_jax.config.registry import FORMATS, load
from nt_jax.config.schema import RunConfig
from nt_jax.console import say
from nt_jax.errors import RunError
from nt_jax.export import card
from nt_jax.export.card import About
from nt_jax.export.files import copy_licences
from nt_jax.export.folder import ExportReport, Wanted, appearing, check_free, check_rank
from nt_jax.export.push import check_push, push
from nt_jax.finished import CELLS, held_to_read, holds_sweep
from nt_jax.generate.chat import ChatModel, open_model
from nt_jax.models.neurons import Factors
from nt_jax.processes import first, from_first
from nt_jax.run.about import about_factors, about_run
from nt_jax.run.kept import Kept, kept_at, kept_in_file, same_factors
from nt_jax.run.model import chat_model
from nt_jax.run.stages import check_same_weights

PARTS_OF_THETA = ("select", "train")


class OfRun(NamedTuple):
    """What a run's folder holds for an export."""

    config: RunConfig
    kept: Kept
    reported: bool  # whether the run's report is about these very factors


def export_stage(
    model: ChatModel, kept: Kept, config: RunConfig, run_dir: Path, folder: Path
) -> str:
    """The tuned checkpoint in HF format with its card, read again and compared before it counts.

    It will lie in the stage's place in `run_dir` once that is done; the numbers of its card come
    with the report (`show_numbers`).
    """
    wanted = Wanted(config.export.dtype, strength=kept.strength)
    folder = Path(from_first(lambda: str(folder)))  # all read what process 0 has written
    report = load(FORMATS["hf"].writer)(model, kept.factors, folder / "hf", wanted)
    about = about_run(run_dir, config, kept, model, wanted)
    if first():
        write_manifest(folder / "export.json", report)
        describe(model, folder / "hf", "hf", about, wanted, report)
    return (
        f"{run_dir / 'export' / 'hf'}   {changed(report)}   re-read and compared: max |difference| "
        f"{report.max_logit_difference:.0e}" + f"   {kept.cut}" * bool(kept.cut)
    )


def show_numbers(model: ChatModel, kept: Kept, config: RunConfig, run_dir: Path) -> None:
    """The card of the run's own export once more, with what its report measured."""
    wanted = Wanted(config.export.dtype)
    about = about_run(run_dir, config, kept, model, wanted)
    card.write_card(run_dir / "export" / "hf", "hf", about)


def export_run(
    run_dir: Path,
    out: Path,
    formats: Sequence[str] = ("hf",),
    wanted: Wanted = Wanted(),
    repo: str | None = None,
) -> None:
    """Turn the Orbax factors that a run has chosen into `formats` (FORMATS) at `out`.

    One format lies in `out` itself, several in folders by their names; all appear or none. With a
    `repo` the result is then pushed to the hub.
    """
    check_free(out)
    check_rank(wanted.rank, formats)
    if repo is not None:
        check_push(repo)
    config, kept, reported = of_run(run_dir, wanted.strength)
    model = chat_model(config, anywhere=True)
    wanted = dataclasses.replace(wanted, strength=kept.strength)
    about = about_run(run_dir, config, kept, model, wanted, reported)
    write_formats(model, about, out, formats, wanted, repo)


def export_factors(
    path: Path,
    base: str,
    out: Path,
    formats: Sequence[str] = ("hf",),
    wanted: Wanted = Wanted(),
    repo: str | None = None,
    revision: str | None = None,
) -> None:
    """`export_run` of a file of factors, or an (IA)^3 adapter, and the model at `base`.

    A strength is counted as in the run that learned them, where the file says its own. `revision`
    is that of a base on the hub.
    """
    check_free(out)
    check_rank(wanted.rank, formats)
    if repo is not None:
        check_push(repo)
    # Read to be compared with what is written: in 16 bits only where that is rounded to them, too.
    dtype = "float32" if wanted.dtype == "float32" else "auto"
    model = open_model(base, dtype, revision=revision)
    kept = kept_in_file(path, read_factors(path, model.checkpoint), wanted.strength)
    wanted = dataclasses.replace(wanted, strength=kept.strength)
    about = about_factors(kept, model, wanted)
    write_formats(model, about, out, formats, wanted, repo)


def write_formats(
    model: ChatModel,
    about: About,
    out: Path,
    formats: Sequence[str],
    wanted: Wanted,
    repo: str | None = None,
) -> None:
    """Write every format with its card and manifest, say what became of it, push it."""
    reports: dict[str, ExportReport] = {}
    with ExitStack() as opened:
        work = Path(from_first(lambda: str(opened.enter_context(appearing(out, 0)))))
        for name in formats:
            if len(formats) > 1:
                say("writing", name)
            folder = work if len(formats) == 1 else work / name
            report = load(FORMATS[name].writer)(model, about.factors, folder, wanted)
            if first():
                describe(model, folder, name, about, wanted, report, repo)
            reports[name] = report
        from_first(opened.close)
    for name, report in reports.items():
        place = out if len(formats) == 1 else out / name
        say("export", f"{place}   {changed(report)}")
        for note in filter(None, (report.lost, *report.notes)):
            say("", note)
    for note in about.notes:
        say("", note)
    if repo is not None and first():
        say("push", push(out, repo))


def describe(
    model: ChatModel,
    folder: Path,
    name: str,
    about: About,
    wanted: Wanted,
    report: ExportReport,
    repo: str | None = None,
) -> None:
    """What stands beside the files of a format: licences, card, manifest."""
    licences = copy_licences(model.checkpoint, folder)
    report = dataclasses.replace(report, sha256={**report.sha256, **licences})
    card.write_card(folder, name, about.at_rank(report.lost), repo)
    card.write_manifest(folder, name, about, wanted, report)


def run_factors(run_dir: Path, strength: float | None = None) -> tuple[RunConfig, Factors]:
    """(the run's config, its best factors): `of_run` without what there is to say of them."""
    config, kept, _ = of_run(run_dir, strength)
    return config, kept.factors


# What tuning did before these settings were there (30 November 2026).
BEFORE = {"lift_from": 1.0, "step_prompts": [1.0]}


def of_run(run_dir: Path, strength: float | None = None) -> OfRun:
    """A run's config and its best factors, once its model is known to be the same.

    With a `strength`, its last factors at that strength in place of the best, or of what its
    export.strength says. Raises a RunError if the folder is no run, holds no factors, or the
    model's files have changed.
    """
    if not (run_dir / "run.json").is_file():
        raise RunError(
            f"{run_dir} is not a run directory (it has no run.json). Name one, or, where that file "
            "was deleted, repeat the command that made the run: finished stages are kept."
        )
    if holds_sweep(run_dir):
        raise RunError(f"{run_dir} holds a sweep. Name one of its cells, {run_dir / CELLS}/NAME.")
    with held_to_read(run_dir) as directory:
        facts = directory.facts()
        keys = facts.get("keys", {})
        known = "config" in facts and all(name in keys for name in PARTS_OF_THETA)
        if not known or "weights" not in facts.get("hashes", {}):
            raise RunError(
                f"{run_dir / 'run.json'} holds no config of a run: it was deleted, or this is the "
                "folder of another command. Repeat python -m nt_jax.train --config ... --run-dir "
                f"{run_dir}: finished stages are kept."
            )
        config = located(config_of(run_dir, facts["config"]), facts.get("made_in"))
        check_same_weights(config.model, run_dir, facts["hashes"]["weights"])
        select, train = (directory.current(name, keys[name]) for name in PARTS_OF_THETA)
        if select is None or train is None:
            raise RunError(
                f"{run_dir} holds no factors tuned with its present settings. Carry the run on "
                f"first: python -m nt_jax.train --config ... --run-dir {run_dir}"
            )
        own = kept_at(config.tune, select, train, config.export.strength)
        if strength is None:
            return OfRun(config, own, reported=True)
        kept = kept_at(config.tune, select, train, strength)
        return OfRun(config, kept, same_factors(kept.factors, own.factors))


def located(config: RunConfig, made_in: object) -> RunConfig:
    """The config with its model where the run found it, should its path be a relative one."""
    source = config.model.source
    if not isinstance(made_in, str) or Path(source).expanduser().exists():
        return config
    if not Path(made_in, source).exists():
        return config
    model = config.model.model_copy(update={"source": str(Path(made_in, source))})
    return config.model_copy(update={"model": model})


def config_of(run_dir: Path, stored: dict) -> RunConfig:
    """The config that run.json keeps; an engine that is gone matters to nobody who exports.

    What is not in it had no such setting, and was tuned as BEFORE has it.
    """
    told, tune = stored.get("eval"), stored.get("tune")
    if isinstance(told, dict) and told.get("engine") == "vllm":
        stored = stored | {"eval": told | {"engine": "jax"}}
    if isinstance(tune, dict):
        stored = stored | {"tune": BEFORE | tune}
    try:
        return RunConfig.model_validate(stored)
    except ValidationError as error:
        first = error.errors()[0]
        raise RunError(
            f"{run_dir / 'run.json'} holds a config of another version: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}. Repeat the run with its recipe."
        ) from None


def changed(report: ExportReport) -> str:
    """How much of the checkpoint is new, in words."""
    return f"{len(report.changed)} of {report.tensors} tensors changed"


def write_manifest(path: Path, report: ExportReport) -> None:
    """What was exported: changed tensors, rounding, the check's result, and file hashes."""
    facts = dataclasses.asdict(report)
    del facts["out"], facts["notes"]
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
