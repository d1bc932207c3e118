"""Whether scores say anything: they are finite, and P(answer) moves by more than rounding."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nt_jax.attribution.diagnostics import overlap
from nt_jax.attribution.score import Attribution, EncodedExample
from nt_jax.errors import DataError
from nt_jax.models.transformer import LanguageModel

ROUNDING = 8  # units in the last place of P(answer), which is float32 or wider
TOP = 2000  # neurons that two halves are compared by; of fewer, a tenth
ERROR = 0.01  # of the change of P(answer): completeness that the nodes should reach
MOST_STEPS = 1000  # that attribution.steps may be
LOW = 0.2  # share of the best neurons that two halves should at least share, or twice chance


def check_example(
    lm: LanguageModel, example: EncodedExample, result: Attribution, what: str, integral: bool
) -> None:
    """Raises a DataError, before anything is chosen by it, where a result says nothing.

    `what` it is, in words; `integral`: whether its scores sum to a change of P(answer).
    """
    check_finite(result, what)
    if integral:
        kinds = (lm.module().embed[...].dtype, jnp.float32)
        check_signal(result, example, what, min(float(jnp.finfo(kind).eps) for kind in kinds))
    else:
        check_scores(result.standard_LF, f"the scores of {what}")


def check_finite(result: Attribution, what: str) -> None:
    """Raises a DataError where a score, or P(answer) itself, is NaN or infinite; `what` it is."""
    parts = (result.alpha_LF, result.standard_LF, result.v_q_LF, result.v_pq_LF)
    wrong_L = ~np.all([np.isfinite(part_LF).all(axis=1) for part_LF in parts], axis=0)
    if not wrong_L.any() and np.isfinite(result.start_L).all() and np.isfinite(result.end):
        return
    where = f" from layer {wrong_L.argmax()} on" if wrong_L.any() else ""
    raise DataError(
        f"attribution: the scores of {what} are not finite{where}: a weight or an activation of "
        "the model overflows. Set model.dtype=float32; if that is so already, the checkpoint is "
        "damaged: download it again."
    )


def check_signal(result: Attribution, example: EncodedExample, what: str, eps: float) -> None:
    """Raises a DataError where the path from q to (p, q) moves P(answer) by rounding alone.

    `eps`: that of the type that P has. A model in bfloat16 rounds on the way, too, but alike where
    no neuron matters.
    """
    change = float(np.abs(result.end - result.start_L).max())
    size = max(abs(result.end), float(np.abs(result.start_L).max()))
    if example.question != example.attacked and change > ROUNDING * eps * size:
        return
    if example.question == example.attacked:
        why = "its attack is the bare request: leave that template out of data.templates"
    elif size == 0:
        why = "P(answer) is 0 to the last digit: choose another attribution.target"
    else:
        why = "no layer's neurons reach the output: are the weights of down_proj zero?"
    raise DataError(
        f"attribution: {what} says nothing about any neuron. P(answer) is the same with and "
        f"without the attack, to rounding, in every layer ({why})."
    )


def check_scores(score_LF: np.ndarray, what: str) -> None:
    """Raises a DataError where a score of a whole set is not finite or tells no neurons apart."""
    if not np.isfinite(score_LF).all():
        raise DataError(
            f"attribution: {what} are not finite: a weight or an activation of the model "
            "overflows. Set model.dtype=float32; if that is so already, the checkpoint is damaged: "
            "download it again."
        )
    if np.ptp(score_LF) == 0:
        raise DataError(
            f"attribution: {what} are the same for every neuron, so none can be chosen by them. "
            "Are the weights of down_proj zero?"
        )


def split_half(
    one_LF: Float[np.ndarray, "..."], other_LF: Float[np.ndarray, "..."]
) -> dict[str, float]:
    """How many of their best neurons two halves of the examples share: a score of all of them?"""
    top = min(TOP, max(1, one_LF.size // 10))
    shared = overlap(one_LF.reshape(1, -1), other_LF.reshape(1, -1), top)
    return {"top": top, "shared": shared, "chance": top / one_LF.size}


def low_overlap(half: dict[str, float], what: str) -> str | None:
    """A warning where two halves hardly agree, None where they do."""
    if half["shared"] >= max(LOW, 2 * half["chance"]):
        return None
    return (
        f"two halves of {what} share {half['shared']:.0%} of their best {half['top']:,} neurons "
        f"(chance {half['chance']:.0%}): other examples would choose other neurons. Give more."
    )


def large_error(error: float, nodes: int) -> str | None:
    """A warning where the scores of some layer miss more than ERROR of the change, else None."""
    if error <= ERROR:
        return None
    more = f"Take attribution.steps={min(2 * nodes, MOST_STEPS)}"
    more = more if nodes < MOST_STEPS else "There are no more"
    return (
        f"completeness error {error:.1%}, above {ERROR:.0%}: {nodes} nodes do not follow P(answer) "
        f"along the path. {more}."
    )


def halves(score_ELF: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """Every second example, and the others; None where a half would be empty."""
    return (list(score_ELF[::2]), list(score_ELF[1::2])) if len(score_ELF) > 1 else None
