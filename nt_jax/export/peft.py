"""What adapters in PEFT's format share: their folder, tensor names and adapter_config.json."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from nt_jax.checkpoints.adapter import CONFIG, PREFIX, WEIGHTS
from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.checkpoints.keymap import DOWN, hf_shapes
from nt_jax.errors import ConfigError
from nt_jax.export.folder import HUB_ID, ExportReport, Wanted, appearing, digests, write_json

TARGET = "down_proj"  # an input of it is a neuron


def write_adapter(
    checkpoint: Checkpoint,
    kind: str,
    tensors: Mapping[str, np.ndarray],
    fields: Mapping[str, Any],
    layers: Sequence[int],
    base: Mapping[str, str | None],
    out: Path,
    notes: tuple[str, ...] = (),
    lost: str = "",
) -> ExportReport:
    """An adapter of `kind` (IA3, LORA) as `save_pretrained` of PEFT would write it.

    `tensors`: name below the base model -> array. `fields`: what adapter_config.json says besides.
    `layers`: those whose down projection it changes. `base`: as `base_for_peft` has it.
    """
    size = sum(array.nbytes for array in tensors.values())
    common = {
        "task_type": "CAUSAL_LM",
        "peft_type": kind,
        **base,
        "inference_mode": True,
        "target_modules": [TARGET],
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }
    with appearing(out, size) as work:
        named = {PREFIX + name: np.ascontiguousarray(array) for name, array in tensors.items()}
        save_file(named, work / WEIGHTS, metadata={"format": "pt"})
        (work / WEIGHTS).chmod((work / WEIGHTS).stat().st_mode | 0o444)
        write_json(work / CONFIG, common | dict(fields))
        sha256 = digests(work)
    return report_of(checkpoint, layers, out, sha256, notes, lost)


def report_of(
    checkpoint: Checkpoint,
    layers: Sequence[int],
    out: Path,
    sha256: dict[str, str],
    notes: tuple[str, ...] = (),
    lost: str = "",
) -> ExportReport:
    """The report of a change of the down projections of these layers."""
    names = DOWN.hf_names(checkpoint.config.layers)
    changed, every = tuple(names[layer] for layer in layers), len(hf_shapes(checkpoint.config))
    return ExportReport(out, changed, every, 0.0, sha256, lost=lost, notes=notes)


def base_name(checkpoint: Checkpoint, wanted: Wanted = Wanted()) -> str:
    """What the base is called: as wanted, a hub id, or a file's name; never by a local path."""
    if wanted.base is not None:
        return without_place(wanted.base)
    local = Path(checkpoint.source).expanduser()
    if checkpoint.gguf is not None:
        return checkpoint.path.name
    return local.resolve().name if local.exists() else checkpoint.source


def without_place(name: str) -> str:
    """A name as others may read it: of what is, or looks like, a local path its last part."""
    local = Path(name).expanduser()
    if local.exists():
        return local.resolve().name
    return name if HUB_ID.fullmatch(name) else re.split(r"[/\\]", name.rstrip("/\\"))[-1]


def base_revision(checkpoint: Checkpoint, wanted: Wanted = Wanted()) -> str | None:
    """The revision that the base was asked of the hub at; None where it goes by another name.

    A revision is one of its own repository alone.
    """
    return checkpoint.revision if base_name(checkpoint, wanted) == checkpoint.source else None


def base_for_peft(checkpoint: Checkpoint, wanted: Wanted) -> dict[str, str | None]:
    """What adapter_config.json says of the base, by which PEFT fetches it.

    Where PEFT cannot open it, its name says so.
    """
    name = base_name(checkpoint, wanted)
    if checkpoint.gguf is not None and wanted.base is None:
        name += (
            ": PEFT cannot open a GGUF file; "
            "python -m nt_jax.export --strength 0 writes it as a folder"
        )
    return {"base_model_name_or_path": name, "revision": base_revision(checkpoint, wanted)}


def down_modules(layers: int) -> list[str]:
    """The modules whose inputs are neurons, in layer order."""
    return [name.removesuffix(".weight") for name in DOWN.hf_names(layers)]


def scaled_layers(scale_LF: np.ndarray) -> list[int]:
    """Layers with a factor that is not 1; raises a ConfigError where there are none."""
    layers = np.flatnonzero((scale_LF != 1.0).any(axis=1)).tolist()
    if not layers:
        raise ConfigError(
            "every factor is 1, so an adapter would change nothing (--strength 0?); the untuned "
            "model itself is --format hf."
        )
    return layers
