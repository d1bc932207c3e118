"""Our logits held against given ones, as another implementation wrote them."""

import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax

from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.console import say
from nt_jax.doctor.subject import Subject
from nt_jax.errors import ConfigError, DataError, brief
from nt_jax.limits import DATA_BYTES, check_file
from nt_jax.mesh import make_mesh
from nt_jax.models.transformer import logits

CLOSE = 1e-3  # nats of divergence a token, at most
Reference = tuple[np.ndarray, np.ndarray]  # tokens int32 [T], logits float64 [T, V]


def compare_logits(subject: Subject, reference: Reference) -> dict[str, Any]:
    """How far ours are from those that read_reference gave for the same subject, and shown."""
    assert subject.checkpoint is not None  # read_reference refuses it
    tokens_T, given_TV = reference
    mesh = subject.config.mesh
    placed = make_mesh(**mesh.model_dump())
    wanted = subject.config.model
    lm = load_weights(subject.checkpoint, wanted.dtype, placed, frozen=wanted.frozen)
    tokens_BT = jnp.asarray(tokens_T[None])
    found_TV = np.asarray(logits(lm, tokens_BT, tokens_BT >= 0)[0], np.float64)
    found = apart(found_TV, given_TV)
    say(
        "logits",
        f"{'agree' if found['agree'] else 'DIFFER'}   over {found['tokens']} tokens: "
        f"max |difference| {found['max_difference']:.1e}, divergence at most "
        f"{found['max_divergence']:.1e} nats, same best token {found['same_best']:.1%}",
    )
    return found


def apart(found_TV: np.ndarray, given_TV: np.ndarray) -> dict[str, Any]:
    """How far our logits, float64 [T, V], are from given ones.

    They agree where no token's divergence KL(given, ours) is above CLOSE.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        ours, theirs = log_softmax(found_TV, axis=-1), log_softmax(given_TV, axis=-1)
        p_TV = np.exp(theirs)
        # Logits beyond float64's range of each other: 0 times infinity, which is nothing here.
        divergence_T = np.where(p_TV > 0, p_TV * (theirs - ours), 0.0).sum(axis=-1)
    return {
        "tokens": len(given_TV),
        "max_difference": float(np.abs(found_TV - given_TV).max()),
        "max_divergence": float(divergence_T.max()),
        "same_best": float((found_TV.argmax(-1) == given_TV.argmax(-1)).mean()),
        "agree": bool(divergence_T.max() <= CLOSE),
    }


def read_reference(subject: Subject, path: Path) -> Reference:
    """Those of an .npz file with tokens int [T] and logits float [T, V].

    Raises a ConfigError where the subject's weights are not here, a DataError where the file holds
    something else.
    """
    vocab = subject.model.vocab_size
    if subject.checkpoint is None:
        raise ConfigError(f"--logits: the weights of {subject.name} are not here to be run.")
    try:
        arrays = _arrays(path)
    except Exception as error:  # whatever zipfile, zlib and numpy say of what they do not expect
        raise DataError(
            f"{path} cannot be read as reference logits ({brief(error)}): write it with "
            "numpy.savez(path, tokens=[T], logits=[T, V])."
        ) from error
    tokens, given = arrays["tokens"], arrays["logits"]
    if tokens.ndim != 1 or not len(tokens) or tokens.dtype.kind not in "iu":
        raise DataError(f"{path}: tokens must be whole numbers, [T], not {tokens.shape}.")
    if given.shape != (len(tokens), vocab) or given.dtype.kind != "f":
        raise DataError(
            f"{path}: logits must be floats of shape {(len(tokens), vocab)}, not {given.shape}."
        )
    if tokens.min() < 0 or tokens.max() >= vocab or not np.isfinite(given).all():
        raise DataError(f"{path}: a token is not in the vocabulary, or a logit is not finite.")
    return tokens.astype(np.int32), given.astype(np.float64)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Tokens and logits of an .npz file, once it is known how much it unpacks to."""
    check_file(path, DATA_BYTES)
    with zipfile.ZipFile(path) as parts:
        size = sum(each.file_size for each in parts.infolist())
    if size > DATA_BYTES.value:
        raise ValueError(f"it unpacks to {size:,} bytes; at most {DATA_BYTES.value:,} are read")
    with np.load(path) as file:
        return {name: file[name] for name in ("tokens", "logits")}
