"""What an export says of a run: its base, strength, data in words, settings, what was measured."""

import dataclasses
from pathlib import Path

from nt_jax.checkpoints.chat_template import asks_thinking
from nt_jax.checkpoints.checkpoint import fingerprint
from nt_jax.checkpoints.tokenizer import rules_replaced
from nt_jax.config.schema import RunConfig
from nt_jax.eval.metrics.result import BASE, TUNED, ResultRow, find, read_rows
from nt_jax.export.card import About, Measured, licence_of
from nt_jax.export.folder import HUB_ID, Wanted
from nt_jax.export.peft import base_name, base_revision
from nt_jax.facts import read_facts
from nt_jax.finished import finished_now
from nt_jax.generate.chat import ChatModel
from nt_jax.run.kept import Kept, number
from nt_jax.run.repeat import data_sources, settings_to_repeat

METRICS = ("refusal_rate", "perplexity", "kl", "letter_accuracy", "generate_accuracy")
_SETS = {"harmful": "harmful", "harmless": "harmless", "templates": "attack templates"}
_OTHER = (
    "Not measured: these are other factors than those that the run's report is about (another "
    "strength)."
)
_ROUNDED = (
    "Not measured: the run's figures are of int8 matrices, and this model has those of the base. "
    "Measure it: python -m nt_jax.eval --model THIS_FOLDER."
)


def about_run(
    run_dir: Path,
    config: RunConfig,
    kept: Kept,
    model: ChatModel,
    wanted: Wanted,
    reported: bool = True,
) -> About:
    """All that is known of a run's model; its numbers where its report is about these factors."""
    facts = read_facts(run_dir)
    sources = data_sources(config, facts)
    settings, fill_in = settings_to_repeat(config, sources, model.checkpoint)
    hashes = facts.get("hashes", {})
    about = dataclasses.replace(
        _about(kept, model, wanted),
        told=config.eval.system_prompt is not None,
        settings=settings,
        fill_in=fill_in,
        made_from={name: hashes[name] for name in ("data", "start") if name in hashes},
        data=[f"{_SETS[name]}: {source.words}" for name, source in sources.items()],
        datasets=[*dict.fromkeys(s.hub_id for s in sources.values() if s.hub_id)],
        rows=measured(run_dir, config) if reported and not config.model.frozen else [],
        unmeasured=_unmeasured(config, reported),
    )
    return about.as_it_is()


def _unmeasured(config: RunConfig, reported: bool) -> str:
    if not reported:
        return _OTHER
    return _ROUNDED if config.model.frozen else "Nothing was measured yet."


def about_factors(kept: Kept, model: ChatModel, wanted: Wanted) -> About:
    """What is known of factors that come from a file."""
    return _about(kept, model, wanted).as_it_is()


def measured(run_dir: Path, config: RunConfig) -> list[Measured]:
    """The rows of a finished report on the run's present factors; none where there is none."""
    if (report := finished_now(run_dir, "report")) is None:
        return []
    rows = read_rows(report / "results.json")
    return [
        _beside_base(rows, row, config.eval.labels.get(row.dataset, row.dataset))
        for metric in METRICS
        for row in rows
        if row.metric == metric and row.model == TUNED
    ]


def _beside_base(rows: list[ResultRow], row: ResultRow, label: str) -> Measured:
    base = find(rows, row.dataset, row.metric, BASE, row.judge)
    before = None if base is None else base.value
    judge = None if row.judge is None else _without_path(row.judge)
    return Measured(
        row.dataset, label, row.metric, before, row.value, row.n, row.low, row.high, judge
    )


def _about(kept: Kept, model: ChatModel, wanted: Wanted) -> About:
    """What is known without a run."""
    checkpoint = model.checkpoint
    name = base_name(checkpoint, wanted)
    notes = []
    if wanted.base is not None and wanted.base != name:
        notes.append(f"--base {wanted.base} is a local path, which is not written: it says {name}")
    if kept.cut:
        where = "" if kept.strength is None else f"strength {number(kept.strength)}: "
        notes.append(where + kept.cut)
    base_id = name if HUB_ID.fullmatch(name) else None
    strength = kept.words + f"; {kept.cut}" * bool(kept.cut)
    told = (fingerprint(checkpoint), kept.factors, strength, licence_of(checkpoint))
    folder = checkpoint.directory
    return About(
        name,
        base_id,
        *told,
        notes=notes,
        revision=base_revision(checkpoint, wanted),
        thinking=model.chat.thinking if asks_thinking(model.tokenizer) else None,
        rules_replaced=folder is not None and rules_replaced(folder),
    )


def _without_path(judge: str) -> str:
    """A judge or scorer without the place where its files lie."""
    kind, colon, source = judge.partition(":")
    return f"{kind}{colon}{Path(source).name}" if colon else Path(judge).name
