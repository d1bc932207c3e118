"""The model card and the manifest of an export: what it is, what was measured, how to undo it.

Neither holds a local path, a prompt or an answer; the source's own card is never copied.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from nt_jax.atomic import write_atomic
from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.checkpoints.tokenizer import rules_replaced
from nt_jax.config.registry import RANKED
from nt_jax.export.folder import MANIFEST, ExportReport, Wanted, write_json
from nt_jax.export.kinds import KINDS, use_of
from nt_jax.models.neurons import Factors
from nt_jax.version import __version__

CARD = "README.md"
_TEMPLATE = Path(__file__).with_name("model_card.md")
_TEXT_GENERATION = "text-generation"
_CUT = (
    "Not measured: the rank was cut, and the run's report is about the whole change, as other "
    "formats and a LoRA of full rank hold it."
)


class Measured(NamedTuple):
    """A number of the tuned model beside that of its base; rates in 0..1."""

    dataset: str
    label: str
    metric: str
    before: float | None
    after: float
    n: int
    low: float | None
    high: float | None
    judge: str | None


@dataclasses.dataclass(frozen=True)
class About:
    """What a card and a manifest say of a model beside its files."""

    base: str
    base_id: str | None  # on the hub
    sha256: str  # fingerprint of the base's files
    factors: Factors
    strength: str = ""  # in words
    licence: str | None = None
    settings: Mapping[str, Any] | None = None  # a recipe without paths and prompts
    fill_in: Sequence[str] = ()  # keys of it that name no place
    made_from: Mapping[str, str] = dataclasses.field(default_factory=dict)  # name -> sha256
    data: Sequence[str] = ()  # in words
    datasets: Sequence[str] = ()  # hub ids
    rows: Sequence[Measured] = ()
    unmeasured: str = "Nothing was measured."
    lost: str = ""  # by a cut rank, in words
    notes: Sequence[str] = ()  # to be said where it is written
    revision: str | None = None  # of base_id, where one was asked for
    thinking: bool | None = None  # as tuned and measured, where the chat template asks
    told: bool = False  # whether a system message stood before what was measured
    rules_replaced: bool = False  # by AutoTokenizer, of the base's tokenizer

    @property
    def untuned(self) -> bool:
        """Whether the factors leave every neuron alone."""
        return not (np.asarray(self.factors.theta_P) != 1).any()

    def as_it_is(self) -> "About":
        """This, without what is said of a tuning where the factors leave every neuron alone."""
        if not self.untuned:
            return self
        known = (self.base, self.base_id, self.sha256, self.factors)
        return About(
            *known,
            licence=self.licence,
            notes=self.notes,
            revision=self.revision,
            thinking=self.thinking,
            rules_replaced=self.rules_replaced,
        )

    def at_rank(self, lost: str) -> "About":
        """This, of an adapter whose rank was cut: the numbers are those of the whole change."""
        return dataclasses.replace(self, lost=lost, rows=(), unmeasured=_CUT) if lost else self


def write_card(folder: Path, kind: str, about: About, repo: str | None = None) -> None:
    """README.md of a format of the export, which is then pushed to `repo`."""
    speaks, name = KINDS[kind], about.base.split("/")[-1]
    use = use_of(kind, about.base, about.base_id, repo, about.revision, about.thinking)
    if rules_replaced(folder) if kind == "hf" else about.rules_replaced:
        use = use.replace("AutoTokenizer", "PreTrainedTokenizerFast")
    card = ModelCard.from_template(
        _metadata(kind, about),
        template_path=str(_TEMPLATE),
        title=f"{name}, {'untuned' if about.untuned else 'NeuronTune'}",
        what=speaks.what,
        version=__version__,
        base=about.base,
        base_id=about.base_id,
        revision=about.revision,
        thinking=about.thinking,
        told=about.told,
        untuned=about.untuned,
        strength=about.strength,
        lost=about.lost,
        sha256=about.sha256,
        data=", ".join(about.data),
        licence=f" ({about.licence})" if about.licence else "; read it there",
        rows=[_shown(row) for row in about.rows],
        unmeasured=about.unmeasured,
        language=speaks.language,
        use=use,
        undo=speaks.undo,
        settings=about.settings,
        fill_in=", ".join(about.fill_in),
        **_factors_in_words(about.factors),
    )
    write_atomic(folder / CARD, str(card).encode("utf-8"))


def _metadata(kind: str, about: About) -> ModelCardData:
    """What the hub reads; an untuned copy is no relation that the hub has a word for."""
    related: dict[str, Any] = {}
    if about.base_id and not about.untuned:
        related = {"base_model_relation": KINDS[kind].relation}
    tuned = [] if about.untuned else ["neurontune", "safety"]
    name = about.base.split("/")[-1]
    return ModelCardData(
        base_model=about.base_id,
        license=about.licence,
        datasets=[*about.datasets] or None,
        library_name=KINDS[kind].library,
        pipeline_tag=_TEXT_GENERATION,
        tags=["nt_jax", *tuned, *(["gguf"] if "gguf" in kind else [])],
        model_name=f"{name} {'untuned' if about.untuned else 'NeuronTune'}",
        eval_results=[_result(row) for row in about.rows] or None,
        **related,
    )


def _factors_in_words(factors: Factors) -> dict[str, Any]:
    """Counts, layers and range of the factors; of none, counts alone."""
    theta_P, layer_P = np.asarray(factors.theta_P), np.asarray(factors.neurons.layer_P)
    safety = int(np.sum(factors.neurons.is_safety_P))
    counts = {"neurons": len(theta_P), "safety": safety, "utility": len(theta_P) - safety}
    if not len(theta_P):
        return counts
    span = {"low": f"{theta_P.min():.2f}", "high": f"{theta_P.max():.2f}"}
    return counts | span | {"first": layer_P.min(), "last": layer_P.max()}


def write_manifest(
    folder: Path, kind: str, about: About, wanted: Wanted, report: ExportReport
) -> None:
    """nt_jax_export.json: the base, hashes, strength, version, settings, and what was changed.

    `wanted.strength` is that of the factors. `made_from`: sha256 of what they were learned from.
    """
    facts = dataclasses.asdict(report)
    del facts["out"], facts["notes"]
    base = {"name": about.base, "id": about.base_id, "sha256": about.sha256}
    known = {
        "format": kind,
        "nt_jax": __version__,
        "base": base | ({"revision": about.revision} if about.revision else {}),
        "strength": wanted.strength,
        "strength_means": "0, the untuned model" if about.untuned else about.strength,
        "dtype": wanted.dtype,
        "rank": wanted.rank if kind in RANKED else None,
        "neurons": 0 if about.untuned else len(about.factors.theta_P),
        "settings": about.settings,
        "fill_in": list(about.fill_in),
        "made_from": dict(about.made_from),
    }
    write_json(folder / MANIFEST, known | facts)


def licence_of(checkpoint: Checkpoint) -> str | None:
    """The licence that a checkpoint's files name, as the hub spells it."""
    if checkpoint.gguf is not None:
        return checkpoint.gguf.metadata.get("general.license")
    card = checkpoint.path / CARD
    manifest = checkpoint.path / MANIFEST
    if not card.is_file() or manifest.is_file():
        return None
    try:
        found = ModelCard(card.read_text("utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return None  # a card that cannot be read is no reason to stop
    licence = found.get("license")
    return licence if isinstance(licence, str) else None


def _result(row: Measured) -> EvalResult:
    """A row as the hub's model index has it, with the interval in its arguments."""
    args = {"n": row.n, "low": row.low, "high": row.high, "interval": 0.95, "before": row.before}
    return EvalResult(
        task_type=_TEXT_GENERATION,
        dataset_type=row.dataset,
        dataset_name=row.label,
        metric_type=row.metric,
        metric_value=row.after,
        metric_args=args | ({"by": row.judge} if row.judge else {}),
    )


def _shown(row: Measured) -> dict[str, Any]:
    """A row of the table on the card."""
    rate = row.metric.endswith(("rate", "accuracy"))

    def text(value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:.1%}" if rate else f"{value:.3g}"

    interval = "" if row.low is None else f"{text(row.low)} .. {text(row.high)}"
    return row._asdict() | {
        "metric": row.metric.replace("_", " "), "before": text(row.before),
        "after": text(row.after), "interval": interval, "judge": row.judge or "",
    }  # fmt: skip
