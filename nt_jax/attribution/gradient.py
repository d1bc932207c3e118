"""Plain gradient x activation on the attacked prompt: the paper's other utility score."""

import jax.numpy as jnp
from jaxtyping import Array

from nt_jax.attribution.joint import joint_gradients
from nt_jax.attribution.score import Attribution, EncodedExample, Options, scored
from nt_jax.attribution.suffix import Prefix
from nt_jax.models.transformer import LanguageModel


def gradient_times_activation(
    lm: LanguageModel, example: EncodedExample, options: Options = Options()
) -> Attribution:
    """v_pq dP/dv_pq of every neuron for one example; no path, so no weighting and no sum rule."""
    return scored(lm, example, options, gradient_at_end)


def gradient_at_end(
    lm: LanguageModel, prefix: Prefix, v_q_LF: Array, options: Options
) -> tuple[Array, Array]:
    """(score_WLF, start_L) of plain gradient x activation on the clean prompt; one backward."""
    act_LF = prefix.act_LF.astype(v_q_LF.dtype)
    value_A, slope_ALF = joint_gradients(lm, prefix, act_LF[None], target=options.target, chunk=1)
    score_LF = act_LF * slope_ALF[0]
    return jnp.stack([score_LF, score_LF]), jnp.broadcast_to(value_A[0], (lm.config.layers,))
