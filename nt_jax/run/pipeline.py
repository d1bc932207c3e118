"""A run from checkpoint to report, top to bottom; finished stages are skipped.

load > own answers > attribute > select > tune > export > evaluate > report
"""

import dataclasses
import shutil
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from nt_jax.config.schema import RunConfig, config_key
from nt_jax.errors import RunError
from nt_jax.eval.judges.verdicts import check_judges, measuring_hash
from nt_jax.eval.metrics.rows import read_rows
from nt_jax.eval.prompts import attack_overlap, overlap, prompts_hash
from nt_jax.export.hf import export_hf
from nt_jax.generate.session import Session, devices, fingerprint
from nt_jax.generate.vllm_engine import check_vllm
from nt_jax.report.terminal import screen_table
from nt_jax.run.attribute import choose_templates
from nt_jax.run.dry_run import check_sizes, header, model_line
from nt_jax.run.stages import RUNNERS, Parts, tuned_scale, write_manifest
from nt_jax.run.verify import verify_export
from nt_jax.rundir import RunDirectory
from nt_jax.train.own_answers import data_hash, read_records, refusals_only

STAGES = ("answers", "attribute", "select", "train", "export", "base", "tuned", "eval", "report")
MEASURING = (
    "eval.judges",
    "eval.perplexity",
    "eval.scorer",
    "eval.kl",
    "eval.datasets",
    "eval.extra",
)
PARTS_OF_THETA = ("select", "train")
RESUMABLE = ("attribute", "train", "base", "tuned", "eval")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything that a run reads, known to be sound, and what its stages are keyed by."""

    session: Session
    records: Parts
    hashes: dict[str, str]
    keys: dict[str, str]
    overlap: dict[str, int]  # test set -> requests that are also tuned on
    attack_overlap: dict[str, int]  # test set -> attack templates that are also tuned on
    left_out: int  # harmful training requests whose safe answer does not refuse


def read_inputs(config: RunConfig, console: Console) -> Inputs:
    """The data and the checkpoint of a run, checked; no weights are read and nothing is written."""
    session = Session(config, console)
    check_sizes(config, session.checkpoint.config)
    records = read_records(config)
    check_judges(config)
    given = len(records["train"].harmful)
    if config.data.safety_targets == "refusals":
        records["train"] = refusals_only(session.judge, records["train"])
    left_out = given - len(records["train"].harmful)
    choose_templates(records["train"].templates, config.attribution)
    if config.eval.engine == "vllm":
        check_vllm(session.checkpoint)
    session.check_tests()
    tests = prompts_hash(session.prompts, session.choices, config.eval)
    hashes = {
        "weights": fingerprint(session.checkpoint), "data": data_hash(records), "tests": tests,
        "measuring": measuring_hash(config),
    }  # fmt: skip
    keys = stage_keys(config, **hashes)
    tuned_on = [row.request for part in records.values() for row in (*part.harmful, *part.harmless)]
    shared = overlap(session.prompts, tuned_on)
    attacks = [template for part in records.values() for template in part.templates]
    shared_attacks = attack_overlap(config.eval, attacks)
    return Inputs(session, records, hashes, keys, shared, shared_attacks, left_out)


def run(
    config: RunConfig, console: Console, until: str | None = None, inputs: Inputs | None = None
) -> None:
    """Carry a run to its report, or to the end of stage `until`; `inputs` are read if not given."""
    console.print(header(config), highlight=False, soft_wrap=True)
    inputs = inputs or read_inputs(config, console)
    session, records, keys = inputs.session, inputs.records, inputs.keys
    with RunDirectory(config.folder) as directory:  # not before all input is known to be sound
        directory.record(
            config=config.model_dump(mode="json"), seed=config.seed, devices=devices(),
            hashes=inputs.hashes, keys=keys, overlap=inputs.overlap,
            attack_overlap=inputs.attack_overlap,
        )  # fmt: skip
        session.say("model", model_line(session.checkpoint.config))
        if inputs.left_out:
            given = inputs.left_out + len(records["train"].harmful)
            said = f"{inputs.left_out} of {given} safe answers do not refuse and are not learned"
            session.say("data", f"{said} (data.safety_targets)")
        for kind, shared in (("requests", inputs.overlap), ("attacks", inputs.attack_overlap)):
            for name, count in shared.items():
                session.say("warning", f"{count} {kind} of {name} are also tuned on: it flatters")
        for name in STAGES:
            started = time.monotonic()
            if directory.finished(name, keys[name]):
                session.say(name, "kept from before")
            else:
                resumable = name in RESUMABLE
                with directory.stage(name, keys[name], resumable=resumable) as folder:
                    said = RUNNERS[name](session, directory, records, folder)
                session.say(name, f"{said}   {clock(time.monotonic() - started)}")
            if name == until:
                return
        finish(session, directory)


def stage_keys(
    config: RunConfig, weights: str, data: str, tests: str, measuring: str
) -> dict[str, str]:
    """The key of each stage: a hash of the settings it reads and of the stages before it."""
    keys: dict[str, str] = {}

    def add(name: str, settings: list[str], *inputs: str) -> None:
        keys[name] = config_key(config, settings, inputs=[weights, data, *inputs])

    common = ["seed", "model.dtype", "eval.judge"]
    own = ["tune.answer_tokens", "tune.attacked_harmless_fraction", "tune.metric_requests"]
    add("answers", [*common, *own, "data"])
    add("attribute", [*common, "attribution", "data"], keys["answers"])
    add("select", ["neurons"], keys["attribute"])
    add("train", [*common, "tune", "data"], keys["select"], keys["answers"])
    add("export", ["export"], keys["train"])
    answering = ["model.dtype", "eval.max_new_tokens", "eval.engine"]
    add("base", answering, tests)
    exported = [keys["export"]] if config.eval.engine == "vllm" else []  # what vLLM reads
    add("tuned", answering, tests, keys["train"], *exported)
    add("eval", list(MEASURING), keys["base"], keys["tuned"], measuring)
    add("report", ["name"], keys["eval"], keys["export"])
    return keys


def finish(session: Session, directory: RunDirectory) -> None:
    """The last screen: stage times, the before/after table, where everything lies."""
    folder = directory.path
    console = session.console
    seconds = directory.seconds()
    times = "   ".join(f"{name} {clock(seconds[name])}" for name in STAGES if name in seconds)
    console.print()
    rows = read_rows(folder / "report" / "results.json")
    console.print(screen_table(rows, session.config.eval.labels))
    console.print()
    session.say("times", times)
    session.say("model", f"{folder / 'export' / 'hf'}")
    session.say("report", f"{folder / 'report' / 'report.md'}   (and report.html)")
    session.say("answers", f"{folder / 'eval' / 'answers.jsonl'}")


def export_run(run_dir: Path, out: Path, dtype: str, strength: float | None = None) -> None:
    """Turn the Orbax factors of a finished or interrupted run into a HF directory at `out`.

    `strength`: how far to go from 1 to the learned factors; None as validation kept.
    """
    console = Console()
    config, scale_LF = run_factors(run_dir, console, strength)
    session = Session(config, console)
    report = export_hf(session.checkpoint, scale_LF, out, dtype)
    try:
        difference = verify_export(session, scale_LF, out)
        write_manifest(out / "nt_jax_export.json", report, difference)
    except BaseException:
        shutil.rmtree(out)
        raise
    session.say("export", f"{out}   {len(report.changed)} of {report.tensors} tensors changed")


def run_factors(
    run_dir: Path, console: Console, strength: float | None = None
) -> tuple[RunConfig, np.ndarray]:
    """(the run's config, its best factors float32 [L, F]), once its model is known to be the same.

    With a `strength`, its last factors at that strength in place of the best.
    Raises a RunError if the folder is no run, holds no factors, or the model's files have changed.
    """
    if not (run_dir / "run.json").is_file():
        raise RunError(f"{run_dir} is not a run directory (it has no run.json).")
    with RunDirectory(run_dir) as directory:
        facts = directory.facts()
        if "config" not in facts or "keys" not in facts:
            raise RunError(f"{run_dir / 'run.json'} holds no config of a run. Repeat the run.")
        session = Session(RunConfig.model_validate(facts["config"]), console)
        if fingerprint(session.checkpoint) != facts["hashes"]["weights"]:
            raise RunError(
                f"{session.checkpoint.path} is not the model that {run_dir} was tuned on: its "
                "files have changed. Put the old ones back, or repeat the run."
            )
        select, train = (directory.current(name, facts["keys"][name]) for name in PARTS_OF_THETA)
        if select is None or train is None:
            raise RunError(
                f"{run_dir} holds no factors tuned with its present settings. Carry the run on "
                f"first: python -m nt_jax.train --config ... --run-dir {run_dir}"
            )
        return session.config, tuned_scale(session, select, train, strength)


def clock(seconds: float) -> str:
    """Minutes and seconds, as 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
