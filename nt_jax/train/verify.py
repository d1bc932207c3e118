"""Proof of an export: the written directory is read again and must think what the run thinks."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nt_jax.data.batching import bucket, pad_left
from nt_jax.errors import RunError
from nt_jax.models.checkpoint import load_model
from nt_jax.models.transformer import logits
from nt_jax.train.session import Session

PROMPTS = ("What can you do for me?", "Write a short story about a lighthouse.", "What is 3 + 4?")
# Largest |difference| over the largest |logit|. float32 folds lose nothing that matters; in
# bfloat16 (8 bits) each folded weight is rounded once, and so is each activation.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


def verify_export(session: Session, scale_LF: np.ndarray, folder: Path) -> float:
    """Largest logit difference, over the largest logit, of the written model and the scaled one.

    Raises a RunError past the tolerance; the caller then leaves nothing behind.
    """
    prompts = [session.encode(text) for text in PROMPTS]
    token_BP, mask_BP = pad_left(prompts, bucket(max(map(len, prompts))))
    forward = jax.jit(logits)
    scaled = forward(session.lm, token_BP, mask_BP, jnp.asarray(scale_LF))
    written = load_model(str(folder), session.config.model.dtype, session.lm.mesh)
    again = forward(written, token_BP, mask_BP, written.ones_LF)
    apart = jnp.abs(jnp.where(mask_BP[:, :, None], scaled - again, 0)).max()
    difference = float(apart / jnp.abs(scaled).max())
    allowed = TOLERANCE[session.config.model.dtype]
    if not difference <= allowed:
        raise RunError(
            f"the exported model in {folder} does not answer like the tuned one: logits differ by "
            f"{difference:.1e} of the largest, {allowed:.0e} is allowed. Nothing was kept. With "
            "bfloat16 weights, export.dtype=float32 avoids rounding."
        )
    return difference
