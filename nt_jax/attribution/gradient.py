"""Plain gradient x activation on the attacked prompt: the paper's other utility score."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nt_jax.attribution.joint import suffix_value
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
    value, slope_LF = gradient(lm, prefix, jnp.zeros_like(act_LF), options.target)
    score_LF = act_LF * slope_LF
    return jnp.stack([score_LF, score_LF]), jnp.broadcast_to(value, (lm.config.layers,))


@functools.partial(jax.jit, static_argnames="target")
def gradient(
    lm: LanguageModel, prefix: Prefix, more_LF: Array, target: str
) -> tuple[Float[Array, ""], Float[Array, "L F"]]:
    """(target, its gradient) where neurons at the last prompt token are `more_LF` above their own.

    Other than on the joint path the layers above follow, as they do in any gradient.
    """

    def value(more_LF: Array) -> Array:
        return suffix_value(lm, prefix, target, more_LF, lambda more_F, act_F: more_F)

    return jax.value_and_grad(value)(more_LF)
