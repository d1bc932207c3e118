"""Proof of an export: the directory is read again and must give the logits of the scaled model."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import Array

from nt_jax.checkpoints.checkpoint import (
    Checkpoint,
    load_ends,
    load_layer,
    load_weights,
    open_checkpoint,
)
from nt_jax.checkpoints.keymap import DOWN
from nt_jax.checkpoints.tensors import DTYPES
from nt_jax.data.batching import bucket, pad_left
from nt_jax.errors import RunError
from nt_jax.generate.chat import ChatModel
from nt_jax.models.attention import causal
from nt_jax.models.leaves import get_leaf, leaf_names
from nt_jax.models.transformer import (
    LanguageModel,
    positions,
    run_layers,
    unembed,
)

PROMPTS = ("What can you do for me?", "Write a short story about a lighthouse.", "What is 3 + 4?")
# Largest |difference| over the largest |logit|. A fold in float32 loses nothing that matters; one
# that is stored in 16 bits is rounded once per weight, and in bfloat16 so is each activation.
EXACT, ROUNDED = 1e-4, 5e-2


@jax.default_matmul_precision("highest")  # accelerators multiply float32 in 16 to 19 bits else
def verify_export(model: ChatModel, scale_LF: np.ndarray, folder: Path) -> float:
    """Largest logit difference, over the largest logit, of the written model and the scaled one.

    Raises a RunError if a weight is not what was to be written, or the logits are past their
    tolerance; the caller then leaves nothing behind.
    """
    exported, names = open_checkpoint(str(folder)), DOWN.hf_names(len(scale_LF))
    wide = np.dtype(np.float32)  # a quantised tensor of a GGUF file is one that was not changed
    kinds = (DTYPES.get(exported.tensors[name].dtype, wide) for name in names)
    stored, computed = max(kinds, key=_coarseness), model.lm.dtype
    prompts = [model.encode(text) for text in PROMPTS]
    token_BP, mask_BP = pad_left(prompts, bucket(max(map(len, prompts))))
    streams: tuple[Array, Array] | None = None
    first, ends = 0, None
    for old, new in _both(model, exported):
        scale_lF = scale_LF[first : first + old.config.layers]
        check_weights(old, new, scale_lF, stored, folder)
        before, after = streams or (_enter(old, token_BP), _enter(new, token_BP))
        streams = (
            _through(old, before, mask_BP, jnp.asarray(scale_lF)),
            _through(new, after, mask_BP, new.ones_LF),
        )
        first, ends = first + old.config.layers, (old, new)
    assert streams is not None and ends is not None  # no model is without layers
    scaled, again = (_logits(lm, x_BTD) for lm, x_BTD in zip(ends, streams, strict=True))
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


def _both(model: ChatModel, exported: Checkpoint) -> Iterator[tuple[LanguageModel, LanguageModel]]:
    """The source and what was written, as wholes.

    Where the source's matrices are kept as int8, both are read as they are stored, a layer at a
    time: as wholes they may not fit.
    """
    lm, dtype = model.lm, model.lm.dtype.name
    if not lm.config.int8:
        yield lm, load_weights(exported, dtype, lm.mesh)
        return
    own = {name: get_leaf(lm, name) for name in leaf_names(lm) if not name.startswith("blocks.")}
    ends = ((model.checkpoint, own), (exported, load_ends(exported, dtype, lm.mesh)))
    for layer in range(lm.config.layers):
        old, new = (load_layer(source, dtype, lm.mesh, layer, mine) for source, mine in ends)
        yield old, new


@jax.jit
def _enter(lm: LanguageModel, token_BT: Array) -> Array:
    return jnp.take(lm.module().embed[...], token_BT, axis=0)


@jax.jit
def _through(lm: LanguageModel, x_BTD: Array, mask_BT: Array, scale_LF: Array) -> Array:
    rest = (positions(mask_BT), causal(mask_BT))
    return run_layers(lm.module(scale_LF), lm.config, x_BTD, *rest).x_BTD


@jax.jit
def _logits(lm: LanguageModel, x_BTD: Array) -> Array:
    return unembed(lm.module(), x_BTD, lm.config.rms_eps)


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
