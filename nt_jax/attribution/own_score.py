"""A score of your own: a function that sees all examples of a set and scores every neuron.

    def my_score(lm: LanguageModel, examples: Sequence[EncodedExample]) -> Array:
        ...  # float32 [L, F], the higher the better; called for "safety", then for "utility"

`examples[0].set` says which set it is, their fields are token ids with the chat template. It is
`score=` of `nt.find_neurons`, or MODULE:FUNCTION in attribution.score and there.
"""

import hashlib
import importlib
import inspect
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from nt_jax.attribution.score import EncodedExample
from nt_jax.config.registry import EXAMPLE_SCORES
from nt_jax.errors import ConfigError, DataError, NtError, brief
from nt_jax.mesh import host
from nt_jax.models.transformer import LanguageModel

# (model, all examples of a set) -> float32 [L, F].
Score = Callable[[LanguageModel, Sequence[EncodedExample]], ArrayLike]


def is_own(spec: str) -> bool:
    """Whether the setting names a function, and none of our scores."""
    return ":" in spec


def load_score(spec: str) -> Score:
    """The function that MODULE:FUNCTION names.

    Raises a ConfigError where it cannot be imported or called.
    """
    if not is_own(spec):
        known = ", ".join(EXAMPLE_SCORES)
        raise ConfigError(f"No score is called '{spec}': known are {known}, or MODULE:FUNCTION.")
    module, _, name = spec.partition(":")
    try:
        found: Score | None = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # whatever that file does while it is read
        raise ConfigError(
            f"attribution.score={spec}: {module} cannot be imported "
            f"({type(error).__name__}: {' '.join(str(error).split())}). Correct it; modules are "
            "looked for in the working directory and on PYTHONPATH."
        ) from error
    if callable(found):
        return found
    members = vars(importlib.import_module(module))
    there = sorted(member for member, value in members.items() if inspect.isfunction(value))
    raise ConfigError(
        f"attribution.score={spec}: {module} has no function '{name}'. "
        f"It has {', '.join(there) or 'none'}."
    )


def score_hash(spec: str) -> str:
    """sha256 of the spec and of the file that holds its function; of the spec alone for ours.

    Raises as `load_score` does, so that a run finds a wrong spec before any work.
    """
    digest = hashlib.sha256(spec.encode())
    if is_own(spec):
        function = inspect.unwrap(load_score(spec))
        try:
            file = inspect.getsourcefile(function)
        except TypeError:  # a callable object, a partial: its module stands for it
            file = importlib.import_module(spec.partition(":")[0]).__file__
        digest.update(Path(file).read_bytes() if file else b"")
    return digest.hexdigest()


def own_scores(
    score: Score, lm: LanguageModel, examples: Sequence[EncodedExample]
) -> Float[np.ndarray, "L F"]:
    """What `score` says of a set; a DataError where it fails or gives no finite float32 [L, F]."""
    wanted, name = (lm.config.layers, lm.config.neurons), getattr(score, "__name__", "score")
    try:
        found_LF = np.asarray(host(score(lm, examples)))
    except NtError:
        raise
    except Exception as error:  # whatever a user's function does
        frames = traceback.extract_tb(error.__traceback__)
        own = [each for each in frames[1:] if "site-packages" not in each.filename]
        last = (own or frames)[-1]  # not the line of jax that it called
        raise DataError(
            f"The attribution score {name} failed on the {examples[0].set} examples: "
            f"{type(error).__name__}: {brief(error)} ({last.filename}, line {last.lineno}). "
            "Correct it."
        ) from error
    if found_LF.shape != wanted or found_LF.dtype != np.float32:
        raise DataError(
            f"The attribution score {name} gave {found_LF.dtype} {list(found_LF.shape)} for the "
            f"{examples[0].set} examples. Return float32 {list(wanted)}: a number for every neuron."
        )
    if wrong := int((~np.isfinite(found_LF)).sum()):
        raise DataError(
            f"The attribution score {name} is not finite for {wrong} of {found_LF.size} neurons on "
            f"the {examples[0].set} examples. Return finite numbers."
        )
    return found_LF
