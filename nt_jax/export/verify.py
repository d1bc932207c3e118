"""Proof of an export: the directory is read again and must give the logits of the scaled model."""

from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import Array

from nt_jax.checkpoints.checkpoint import load_weights, open_checkpoint
from nt_jax.checkpoints.keymap import DOWN
from nt_jax.checkpoints.tensors import DTYPES
from nt_jax.data.batching import bucket, pad_left
from nt_jax.errors import RunError
from nt_jax.generate.chat import ChatModel
from nt_jax.models.leaves import get_leaf, leaf_names
from nt_jax.models.transformer import LanguageModel, logits

PROMPTS = ("What can you do for me?", "Write a short story about a lighthouse.", "What is 3 + 4?")
# Largest |difference| over the largest |logit|. A fold in float32 loses nothing that matters; one
# that is stored in 16 bits is rounded once per weight, and in bfloat16 so is each activation.
EXACT, ROUNDED = 1e-4, 5e-2


def verify_export(model: ChatModel, scale_LF: np.ndarray, folder: Path) -> float:
    """Largest logit difference, over the largest logit, of the written model and the scaled one.

    Raises a RunError if a weight is not what was to be written, or the logits are past their
    tolerance; the caller then leaves nothing behind.
    """
    tensors, names = open_checkpoint(str(folder)).tensors, DOWN.hf_names(len(scale_LF))
    wide = np.dtype(np.float32)  # a quantised tensor of a GGUF file is one that was not changed
    stored = max((DTYPES.get(tensors[name].dtype, wide) for name in names), key=_coarseness)
    lm = model.lm
    computed = get_leaf(lm, DOWN.ours).dtype
    written = load_weights(str(folder), computed.name, lm.mesh)
    check_weights(lm, written, scale_LF, stored, folder)
    prompts = [model.encode(text) for text in PROMPTS]
    token_BP, mask_BP = pad_left(prompts, bucket(max(map(len, prompts))))
    forward = jax.jit(logits)
    scaled = forward(lm, token_BP, mask_BP, jnp.asarray(scale_LF))
    again = forward(written, token_BP, mask_BP, written.ones_LF)
    apart = jnp.abs(jnp.where(mask_BP[:, :, None], scaled - again, 0)).max()
    difference = float(apart / jnp.abs(scaled).max())
    allowed = EXACT if min(stored.itemsize, computed.itemsize) >= 4 else ROUNDED
    if not difference <= allowed:
        raise RunError(
            f"the exported model in {folder} does not answer like the tuned one: logits differ by "
            f"{difference:.1e} of the largest, {allowed:.0e} is allowed. Nothing was kept. With "
            "16-bit weights, export.dtype=float32 avoids rounding."
        )
    return difference


def check_weights(
    lm: LanguageModel, written: LanguageModel, scale_LF: np.ndarray, stored: np.dtype, folder: Path
) -> None:
    """Raises a RunError unless `written` is `lm` with its down projections scaled and rounded."""
    leaves = (jax.tree.leaves(model.frozen) for model in (lm, written))
    pairs = zip(leaf_names(lm), *leaves, strict=True)
    wrong = [name for name, old, new in pairs if name != DOWN.ours and not _equal(old, new)]
    old_LFD, new_LFD = get_leaf(lm, DOWN.ours), get_leaf(written, DOWN.ours)
    # Rounded by half a step when stored, and, where the model computes in 16 bits, when read.
    allowed = _coarseness(stored) + _coarseness(new_LFD.dtype)
    tiny = float(ml_dtypes.finfo(stored).smallest_normal)
    if not float(_apart(old_LFD, new_LFD, jnp.asarray(scale_LF), tiny)) <= allowed:
        wrong.append(DOWN.ours)
    if wrong:
        raise RunError(
            f"the exported model in {folder} holds other weights than were written: "
            f"{', '.join(wrong)}. Nothing was kept. Check the disk, then repeat the command."
        )


def _coarseness(dtype: np.dtype) -> float:
    """The step from 1 to the next number."""
    return float(ml_dtypes.finfo(dtype).eps)


@jax.jit
def _equal(old: Array, new: Array) -> Array:
    return (old == new).all()


@jax.jit
def _apart(old_LFD: Array, new_LFD: Array, scale_LF: Array, tiny: float) -> Array:
    """Largest difference of `new` from the scaled `old`, relative, of numbers above `tiny`."""
    exact_LFD = old_LFD.astype(scale_LF.dtype) * scale_LF[:, :, None]
    apart_LFD = jnp.abs(new_LFD.astype(exact_LFD.dtype) - exact_LFD)
    return (apart_LFD / jnp.maximum(jnp.abs(exact_LFD), tiny)).max()
