"""What an export says of a run: its base, data in words, settings, and what was measured."""

from pathlib import Path

from nt_jax.checkpoints.checkpoint import Checkpoint, fingerprint
from nt_jax.config.base import DatasetConfig
from nt_jax.config.schema import RunConfig
from nt_jax.eval.metrics.result import BASE, TUNED, ResultRow, find, read_rows
from nt_jax.export.card import HUB_ID, About, Measured, licence_of
from nt_jax.export.folder import Wanted
from nt_jax.export.peft import base_name
from nt_jax.finished import finished_now
from nt_jax.models.neurons import Factors

# What a card shows, and the sections of settings that hold no path.
METRICS = ("refusal_rate", "perplexity", "kl", "letter_accuracy", "generate_accuracy")
SECTIONS = ("seed", "attribution", "neurons", "tune")
_OTHER = (
    "Not measured: these are other factors than those that the run's report is about (another "
    "strength or rank)."
)


def about_run(
    run_dir: Path, config: RunConfig, factors: Factors, checkpoint: Checkpoint, wanted: Wanted
) -> About:
    """All that is known of a run's model; numbers only where they are of these very factors."""
    settings = config.model_dump(mode="json")
    parts = [("harmful", config.data.harmful), ("harmless", config.data.harmless)]
    parts.append(("attack templates", config.data.templates))
    ids = [part.source for _, part in parts if _on_hub(part)]
    same = wanted.strength is None and wanted.rank is None
    rows = measured(run_dir, config) if same else []
    return About(
        *_base(checkpoint, wanted),
        fingerprint(checkpoint),
        factors,
        licence_of(checkpoint),
        {name: settings[name] for name in SECTIONS},
        [f"{name}: {_words(part)}" for name, part in parts],
        [*dict.fromkeys(ids)],
        rows,
        "Nothing was measured yet." if same else _OTHER,
    )


def about_factors(factors: Factors, checkpoint: Checkpoint, wanted: Wanted) -> About:
    """What is known of factors that come from a file."""
    licence = licence_of(checkpoint)
    return About(*_base(checkpoint, wanted), fingerprint(checkpoint), factors, licence)


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
    base = find(rows, row.dataset, row.metric, BASE)
    before = None if base is None else base.value
    judge = None if row.judge is None else _without_path(row.judge)
    return Measured(
        row.dataset, label, row.metric, before, row.value, row.n, row.low, row.high, judge
    )


def _base(checkpoint: Checkpoint, wanted: Wanted) -> tuple[str, str | None]:
    """(what the base is called, its id on the hub where it has one)."""
    name = base_name(checkpoint, wanted)
    return name, name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _on_hub(part: DatasetConfig) -> bool:
    return bool(HUB_ID.fullmatch(part.source)) and not Path(part.source).exists()


def _words(part: DatasetConfig) -> str:
    if part.source == "demo":
        return "nt_jax's demo data (CC0-1.0)"
    return part.source if _on_hub(part) else "own files"


def _without_path(judge: str) -> str:
    """A judge or scorer without the place where its files lie."""
    kind, colon, source = judge.partition(":")
    return f"{kind}{colon}{Path(source).name}" if colon else Path(judge).name
