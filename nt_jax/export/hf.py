"""Hugging Face checkpoints: factors folded into `down_proj`."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from nt_jax import processes
from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.checkpoints.keymap import DOWN
from nt_jax.errors import CheckpointError
from nt_jax.export.files import SHARD_BYTES, Edit, write_edited
from nt_jax.export.folder import ExportReport, Wanted, by_first
from nt_jax.export.verify import verify_export
from nt_jax.generate.chat import ChatModel
from nt_jax.models.config import ModelConfig
from nt_jax.models.neurons import Factors


def write(model: ChatModel, factors: Factors, out: Path, wanted: Wanted) -> ExportReport:
    """`save_model` as a format of the export."""
    return save_model(model, factors, out, wanted.dtype)


def save_model(
    model: ChatModel, factors: Factors, out: Path | str, dtype: str = "source"
) -> ExportReport:
    """Write `model` with the factors in it as a Hugging Face directory, read it again, compare.

    `dtype`: source, or float32 (larger, without the rounding of the fold). Nothing is left at `out`
    where anything fails. Raises a RunError if what was written does not answer like the model.
    """
    size = model.checkpoint.config
    scale_LF, out = factors.scale_LF(size.layers, size.neurons), Path(out)
    report = by_first(export_hf)(model.checkpoint, scale_LF, out, dtype)
    try:
        difference = verify_export(model, scale_LF, out)
    except BaseException:
        if processes.first():
            shutil.rmtree(out.resolve())
        raise
    return dataclasses.replace(report, max_logit_difference=difference)


def export_hf(
    checkpoint: Checkpoint,
    scale_LF: np.ndarray,
    out: Path | str,
    dtype: str = "source",
    shard_bytes: int = SHARD_BYTES,
) -> ExportReport:
    """Write `checkpoint` with neuron f of layer l scaled by scale_LF[l, f] as an HF directory.

    `dtype` "source" keeps the stored types (float32 where the source is GGUF), "float32" widens
    all of them, which avoids the rounding of the fold.
    """
    names = DOWN.hf_names(checkpoint.config.layers)
    pairs = zip(names, _checked_scale(checkpoint.config, scale_LF), strict=True)
    edits = {name: _scaling(scale_F) for name, scale_F in pairs if (scale_F != 1.0).any()}
    return write_edited(checkpoint, edits, Path(out), dtype, shard_bytes)


def _scaling(scale_F: np.ndarray) -> Edit:
    return lambda rows, weight_RF: weight_RF * scale_F[None]


def _checked_scale(config: ModelConfig, scale_LF: np.ndarray) -> np.ndarray:
    scale_LF = np.asarray(scale_LF)
    if scale_LF.shape != (config.layers, config.neurons):
        raise CheckpointError(
            f"The factors have shape {list(scale_LF.shape)}, but this model has "
            f"{config.layers} layers of {config.neurons} neurons. They belong to another model."
        )
    if not np.isfinite(scale_LF).all():
        layer, neuron = np.argwhere(~np.isfinite(scale_LF))[0]
        raise CheckpointError(f"The factor of layer {layer}, neuron {neuron} is not finite.")
    return scale_LF.astype(np.float32)
