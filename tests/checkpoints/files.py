"""A tiny checkpoint on disk: its file, changed, and what is said of it."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.errors import CheckpointError

SINGLE = "model.safetensors"
DOWN = "model.layers.1.mlp.down_proj.weight"


def rewrite(directory: Path, change) -> None:
    """Apply `change` to the tensors of a single-file checkpoint, keeping the file valid."""
    tensors = load_file(directory / SINGLE)
    change(tensors)
    save_file(tensors, directory / SINGLE)


def error_of(directory: Path) -> str:
    """The error that opening it gives."""
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(str(directory))
    return str(error.value)
