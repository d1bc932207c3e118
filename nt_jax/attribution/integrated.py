"""Attack-aware attribution (Eq. 3 and 4): integrated gradients of P(answer) over each neuron.

Every neuron moves from its value on the question alone (v_q) to its value under the attack (v_pq);
the score is (v_pq - v_q) times the integral of dP along the way.
L layers, F neurons, A interpolation nodes, R rows = layers x nodes, D model width.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax.attribution import score
from nt_jax.attribution.joint import joint_path
from nt_jax.attribution.suffix import Prefix, run_from, target_value
from nt_jax.mesh import sharding
from nt_jax.models.layers import block_at
from nt_jax.models.precision import wide_dtype
from nt_jax.models.transformer import LanguageModel


def integrated_gradients(
    lm: LanguageModel, example: score.EncodedExample, options: score.Options = score.Options()
) -> score.Attribution:
    """C(n) of every neuron for one example, float32 (float64 for a float64 model).

    Over one layer's neurons at a time, or all layers' at once, as options.path says.
    """
    rule = {"layer": layer_path, "joint": joint_path}[options.path]
    return score.scored(lm, example, options, rule)


def layer_path(
    lm: LanguageModel, prefix: Prefix, v_q_LF: Array, options: score.Options
) -> tuple[Array, Array]:
    """(score_WLF, start_L): one layer's neurons move together, the other layers run freely."""
    alpha_A, weight_WA = score.nodes_and_weights(options)
    difference_LF = prefix.act_LF.astype(v_q_LF.dtype) - v_q_LF
    slope_ALD, value_LA = layer_slopes(lm, prefix, difference_LF, alpha_A, options)
    every_L = jnp.arange(lm.config.layers, dtype=jnp.int32)
    mean_WLD = score.weighted(weight_WA, slope_ALD)
    each = range(len(weight_WA))  # not over the array, parts of which may lie in other processes
    gradient_WLF = jnp.stack([to_neurons(lm, every_L, mean_WLD[way]) for way in each])
    return difference_LF[None] * gradient_WLF, value_LA[:, -1]


def layer_slopes(
    lm: LanguageModel,
    prefix: Prefix,
    difference_LF: Array,
    alpha_A: np.ndarray,
    options: score.Options,
) -> tuple[Array, Array]:
    """(slope_ALD of the target in what each layer writes, value_LA of the target) at the nodes."""
    layers = lm.config.layers
    # The patch at alpha shifts the stream by (alpha - 1) * difference @ down.
    full_LD = to_shift(lm, jnp.arange(layers, dtype=jnp.int32), difference_LF)
    layer_R = np.repeat(np.arange(layers, dtype=np.int32), len(alpha_A))
    back_R = np.tile(alpha_A - 1.0, layers)
    total, rows = len(layer_R), score.rows_of(lm, prefix, options, len(layer_R))
    values, slopes = [], []
    for first in range(0, total, rows):
        # The last program may start lower than it must, so that all share one shape.
        low = min(first, total - rows)
        cut = slice(low, low + rows)
        shift_RD = jnp.asarray(back_R[cut], full_LD.dtype)[:, None] * full_LD[layer_R[cut]]
        begin = jnp.int32(layer_R[low] + 1)
        value_R, slope_RD = row_gradients(
            lm, prefix, begin, jnp.asarray(layer_R[cut]), shift_RD, target=options.target
        )
        values.append(value_R[first - low :])
        slopes.append(slope_RD[first - low :])
    slope_LAD = jnp.concatenate(slopes).reshape(layers, len(alpha_A), -1)
    return slope_LAD.swapaxes(0, 1), jnp.concatenate(values).reshape(layers, -1)


@functools.partial(jax.jit, static_argnames="target")
def row_gradients(
    lm: LanguageModel, prefix: Prefix, begin: Array, layer_R: Array, shift_RD: Array, *, target: str
) -> tuple[Float[Array, " R"], Float[Array, "R D"]]:
    """(target, its gradient with respect to the shift) of each row.

    Row r adds shift_RD[r] to what layer layer_R[r] writes at the last prompt token; a patch of the
    layer's neurons is such a shift, so the neurons' gradient is one product with `down` away.
    """

    def value(shift_D: Array, layer: Array) -> Array:
        x_TD = prefix.after_LTD[layer]
        x_TD = x_TD.at[0].add(shift_D.astype(x_TD.dtype))
        return target_value(lm, prefix, run_from(lm, prefix, begin, layer + 1, x_TD), target)

    rows = sharding(lm.mesh, "R")
    shift_RD = jax.lax.with_sharding_constraint(shift_RD, rows)
    return jax.vmap(jax.value_and_grad(value))(shift_RD, layer_R)


@jax.jit
def to_shift(lm: LanguageModel, layer_R: Array, patch_RF: Array) -> Array:
    """shift_RD = patch_RF @ down of the row's layer, in float32 or wider."""
    model, dtype = lm.module(), lm.dtype
    wide = wide_dtype(dtype)

    def one(args: tuple[Array, Array]) -> Array:
        down_FD = block_at(model.blocks, args[0]).mlp.down_FD(dtype)
        return args[1].astype(wide) @ down_FD.astype(wide)

    return jax.lax.map(one, (layer_R, patch_RF))


@jax.jit
def to_neurons(lm: LanguageModel, layer_R: Array, gradient_RD: Array) -> Array:
    """gradient_RF with respect to the neurons of each row's layer."""
    model, dtype = lm.module(), lm.dtype
    wide = wide_dtype(dtype)

    def one(args: tuple[Array, Array]) -> Array:
        down_FD = block_at(model.blocks, args[0]).mlp.down_FD(dtype)
        return down_FD.astype(wide) @ args[1].astype(wide)

    return jax.lax.map(one, (layer_R, gradient_RD))
