"""The joint path: the neurons of all layers move from v_q to v_pq at once."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nt_jax.attribution.score import Options, nodes_and_weights, rows_of, weighted
from nt_jax.attribution.suffix import Prefix, target_value
from nt_jax.models.fused_attention import attention_of
from nt_jax.models.layers import Block, over_layers
from nt_jax.models.transformer import LanguageModel


def joint_path(
    lm: LanguageModel, prefix: Prefix, v_q_LF: Array, options: Options
) -> tuple[Array, Array]:
    """(score_WLF, start_L): all layers' neurons move at once; scores sum over all layers."""
    alpha_A, weight_WA = nodes_and_weights(options)
    v_pq_LF = prefix.act_LF.astype(v_q_LF.dtype)
    alpha_A = jnp.asarray(alpha_A, v_q_LF.dtype)[:, None, None]
    patch_ALF = v_q_LF[None] + alpha_A * (v_pq_LF - v_q_LF)[None]
    chunk = rows_of(lm, prefix, options, len(alpha_A))
    value_A, slope_ALF = joint_gradients(lm, prefix, patch_ALF, target=options.target, chunk=chunk)
    mean_WLF = weighted(weight_WA, slope_ALF)
    return (v_pq_LF - v_q_LF)[None] * mean_WLF, jnp.broadcast_to(value_A[-1], (lm.config.layers,))


@functools.partial(jax.jit, static_argnames=("target", "chunk"))
def joint_gradients(
    lm: LanguageModel, prefix: Prefix, patch_ALF: Array, *, target: str, chunk: int
) -> tuple[Float[Array, " A"], Float[Array, "A L F"]]:
    """(target, its gradient) with all layers' neurons at the last prompt token set to a patch."""

    def value(patch_LF: Array) -> Array:
        return suffix_value(lm, prefix, target, patch_LF, lambda patch_F, act_F: patch_F - act_F)

    return jax.lax.map(jax.value_and_grad(value), patch_ALF, batch_size=chunk)


def suffix_value(
    lm: LanguageModel,
    prefix: Prefix,
    target: str,
    given_LF: Array,
    change: Callable[[Array, Array], Array],
) -> Array:
    """The target where each layer's neurons at the last prompt token gain change(given_F, act_F).

    `act_F` are the neurons as they are in this pass, so the layers above a change see it.
    """
    rotary = (prefix.cos_TH, prefix.sin_TH)

    def layer(x_TD: Array, block: Block, per_layer: tuple):
        past_k, past_v, given_F = per_layer

        def mix(q: Array, k: Array, v: Array) -> Array:
            return attention_of(lm)(q, [past_k, k], [past_v, v], prefix.sees)

        x_BTD, act_BTF = block(x_TD[None], rotary, lm.config.rms_eps, mix)
        change_F = change(given_F.astype(act_BTF.dtype), act_BTF[0, 0])
        return x_BTD[0].at[0].add(block.mlp.project(change_F[None, None])[0, 0]), None

    xs = (prefix.keys_LSKH, prefix.values_LSKH, given_LF)
    last_TD, _ = over_layers(lm.module().blocks, layer, prefix.entry_TD, xs)
    return target_value(lm, prefix, last_TD, target)
