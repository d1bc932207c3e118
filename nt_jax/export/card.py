"""The model card and the manifest of an export: what it is, what was measured, how to undo it.

Neither holds a local path, a prompt or an answer; the source's own card is never copied.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from nt_jax.atomic import write_atomic
from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.export.folder import MANIFEST, ExportReport, Wanted, write_json
from nt_jax.models.neurons import Factors
from nt_jax.version import __version__

CARD = "README.md"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TEMPLATE = Path(__file__).with_name("model_card.md")
_TEXT_GENERATION = "text-generation"


class Kind(NamedTuple):
    """How a format is spoken of."""

    what: str
    library: str
    use: str
    undo: str
    relation: str = "adapter"  # to the base, as the hub calls it


_BASE_AGAIN = "The base model itself is the way back: dividing by a factor is not exact."
_TAKE_OFF = "Loading the base without it undoes everything."
KINDS = {
    "hf": Kind("A copy", "transformers",
               'AutoModelForCausalLM.from_pretrained("THIS FOLDER")', _BASE_AGAIN, "finetune"),
    "ia3": Kind("An (IA)^3 adapter", "peft",
                'PeftModel.from_pretrained(base, "THIS FOLDER")', _TAKE_OFF),
    "lora": Kind("A LoRA adapter", "peft",
                 'PeftModel.from_pretrained(base, "THIS FOLDER")', _TAKE_OFF),
    "gguf-lora": Kind("A LoRA adapter for llama.cpp", "gguf",
                      "llama-server -m BASE.gguf --lora lora.gguf", _TAKE_OFF),
    "gguf": Kind("A GGUF copy", "gguf", "llama-server -m model.gguf", _BASE_AGAIN, "finetune"),
    "factors": Kind("The factors", "nt_jax",
                    'nt.load_factors("THIS FOLDER", model.checkpoint)', _TAKE_OFF),
}  # fmt: skip


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
    licence: str | None = None
    settings: Mapping[str, Any] | None = None
    data: Sequence[str] = ()  # in words
    datasets: Sequence[str] = ()  # hub ids
    rows: Sequence[Measured] = ()
    unmeasured: str = "Nothing was measured."


def write_card(folder: Path, kind: str, about: About, wanted: Wanted) -> None:
    """README.md of a format of the export."""
    speaks, name = KINDS[kind], about.base.split("/")[-1]
    results = [_result(row) for row in about.rows]
    relation: dict[str, Any] = {"base_model_relation": speaks.relation} if about.base_id else {}
    data = ModelCardData(
        base_model=about.base_id,
        license=about.licence,
        datasets=[*about.datasets] or None,
        library_name=speaks.library,
        pipeline_tag=_TEXT_GENERATION,
        tags=["neurontune", "nt_jax", "safety", *(["gguf"] if "gguf" in kind else [])],
        model_name=f"{name} NeuronTune",
        eval_results=results or None,
        **relation,
    )
    theta_P, neurons = np.asarray(about.factors.theta_P), about.factors.neurons
    layer_P, safety = np.asarray(neurons.layer_P), int(np.sum(neurons.is_safety_P))
    place = {"first": layer_P.min(), "last": layer_P.max()} if len(layer_P) else {}
    span = {"low": f"{theta_P.min():.2f}", "high": f"{theta_P.max():.2f}"} if len(layer_P) else {}
    card = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        title=f"{name}, NeuronTune",
        what=speaks.what,
        base=about.base,
        version=__version__,
        neurons=len(theta_P),
        safety=safety,
        utility=len(theta_P) - safety,
        strength=_strength(wanted),
        sha256=about.sha256,
        data=", ".join(about.data),
        licence=f" ({about.licence})" if about.licence else "; read it there",
        rows=[_shown(row) for row in about.rows],
        unmeasured=about.unmeasured,
        use=speaks.use,
        undo=speaks.undo,
        **place,
        **span,
    )
    write_atomic(folder / CARD, str(card).encode("utf-8"))


def write_manifest(
    folder: Path, kind: str, about: About, wanted: Wanted, report: ExportReport
) -> None:
    """nt_jax_export.json: the base, hashes, strength, version, settings, and what was changed."""
    facts = dataclasses.asdict(report)
    del facts["out"], facts["notes"]
    theta_P = np.asarray(about.factors.theta_P)
    known = {
        "format": kind,
        "nt_jax": __version__,
        "base": {"name": about.base, "id": about.base_id, "sha256": about.sha256},
        "strength": wanted.strength,
        "dtype": wanted.dtype,
        "rank": wanted.rank,
        "neurons": len(theta_P),
        "settings": about.settings,
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


def _strength(wanted: Wanted) -> str:
    if wanted.strength is None:
        return "as chosen on validation answers"
    return f"{wanted.strength:g} of the way from the base (0) to the learned factors (1)"


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
