"""Attack-aware attribution (Eq. 3 and 4): integrated gradients of P(answer) over each neuron.

For a harmful question q under an attack p, every neuron moves from its value on q alone (v_q) to
its value on (p, q) (v_pq); the score is (v_pq - v_q) times the integral of dP along the way.
L layers, F neurons, A interpolation nodes, R rows = layers x nodes, D model width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from nt_jax.attribution.suffix import Prefix, run_from, run_prefix, target_value
from nt_jax.data.batching import bucket, pad_left
from nt_jax.mesh import sharding
from nt_jax.models.precision import wide_dtype
from nt_jax.models.transformer import LanguageModel, attend, forward, run_block


@dataclasses.dataclass(frozen=True)
class Options:
    """How the integral is formed; each choice is explained in docs/method.md."""

    steps: int = 20
    nodes: str = "midpoint"  # midpoint | left | right
    weighting: str = "alpha"  # alpha (Eq. 4 as printed) | standard (integrated gradients)
    path: str = "layer"  # layer (one layer's neurons move) | joint (all layers at once)
    target: str = "mean_logprob"  # mean_logprob | first_token | sum_logprob
    method: str = "integrated"  # integrated | gradient (plain gradient x activation)
    answer_tokens: int = 32
    chunk: int = 0  # rows per program; 0 lets the memory model choose


@dataclasses.dataclass(frozen=True)
class Example:
    """Token ids of one attribution example; prompts include the chat template."""

    question: list[int]
    attacked: list[int]
    answer: list[int]


@dataclasses.dataclass(frozen=True)
class Attribution:
    """Scores of one example, and what is needed to check and reuse them. All float32 numpy."""

    score_LF: np.ndarray
    v_q_LF: np.ndarray
    v_pq_LF: np.ndarray
    start_L: np.ndarray  # target with one layer at v_q (all layers, repeated, for path=joint)
    end: float  # target of the clean attacked prompt

    @property
    def completeness_L(self) -> np.ndarray:
        """Per layer, |sum of scores - (P(end) - P(start))|: the integration error, in P's unit."""
        return np.abs(self.score_LF.sum(axis=1) - (self.end - self.start_L))


def node_alphas(steps: int, nodes: str) -> np.ndarray:
    """Float64 [A] interpolation points in [0, 1]."""
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[nodes]
    return (np.arange(steps) + offset) / steps


@functools.partial(jax.jit, static_argnames="target")
def row_gradients(
    lm: LanguageModel,
    prefix: Prefix,
    begin: Array,
    layer_R: Array,
    shift_RD: Array,
    *,
    target: str,
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
def neurons_at_last_token(lm: LanguageModel, prompt_BP: Array, mask_BP: Array) -> Array:
    """act_LF of a left-padded prompt [1, P] at its last token."""
    trace = forward(lm.module(), lm.config, prompt_BP, mask_BP, read_at=prompt_BP.shape[1] - 1)
    return trace.act_LBF[:, 0]


@jax.jit
def to_shift(lm: LanguageModel, layer_R: Array, patch_RF: Array) -> Array:
    """shift_RD = patch_RF @ down of the row's layer, in float32 or wider."""
    down_LFD = lm.module().blocks.mlp.down[...]
    wide = wide_dtype(down_LFD.dtype)
    one = lambda layer, patch_F: patch_F.astype(wide) @ down_LFD[layer].astype(wide)  # noqa: E731
    return jax.lax.map(lambda args: one(*args), (layer_R, patch_RF))


@jax.jit
def to_neurons(lm: LanguageModel, layer_R: Array, gradient_RD: Array) -> Array:
    """gradient_RF with respect to the neurons of each row's layer."""
    down_LFD = lm.module().blocks.mlp.down[...]
    wide = wide_dtype(down_LFD.dtype)
    one = lambda layer, g_D: down_LFD[layer].astype(wide) @ g_D.astype(wide)  # noqa: E731
    return jax.lax.map(lambda args: one(*args), (layer_R, gradient_RD))


def nodes_and_weights(options: Options) -> tuple[np.ndarray, np.ndarray]:
    """(alpha_A, weight_A): the integration nodes, and one more at alpha 0 that only reads P."""
    alpha_A = node_alphas(options.steps, options.nodes)
    weight_A = (alpha_A if options.weighting == "alpha" else np.ones_like(alpha_A)) / options.steps
    return np.append(alpha_A, 0.0), np.append(weight_A, 0.0)


def rows_that_fit(lm: LanguageModel, prefix: Prefix) -> int:
    """Rows per program: enough to keep the device busy, few enough for its free memory."""
    config, length = lm.config, prefix.answer_T.shape[0]
    item = prefix.after_LTD.dtype.itemsize
    kept = item * config.layers * config.width  # each layer's input, for the reverse pass
    working = item * (8 * config.neurons + 12 * config.width) + 12 * config.vocab_size
    scores = 12 * config.heads * (prefix.mask_TS.shape[-1] + length)
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    free = stats.get("bytes_limit", 4 << 30) - stats.get("bytes_in_use", 0)
    busy_tokens = 512 if device.platform == "cpu" else 16384
    return int(
        max(1, min(free // 2 // (length * (kept + working + scores)), busy_tokens // length))
    )


def layer_path(lm: LanguageModel, prefix: Prefix, v_q_LF: Array, options: Options):
    """(score_LF, start_L): one layer's neurons move together, the other layers run freely."""
    layers = lm.config.layers
    alpha_A, weight_A = nodes_and_weights(options)
    nodes, every_L = len(alpha_A), jnp.arange(layers, dtype=jnp.int32)
    difference_LF = prefix.act_LF.astype(v_q_LF.dtype) - v_q_LF
    # The patch at alpha shifts the stream by (alpha - 1) * difference @ down.
    full_LD = to_shift(lm, every_L, difference_LF)
    group = max(1, min((options.chunk or rows_that_fit(lm, prefix)) // nodes, layers))
    gradient_LD, start_L = [], []
    for first in range(0, layers, group):
        # The last group may start lower than it must, so that all groups share one shape.
        low = min(first, layers - group)
        layer_R = np.repeat(np.arange(low, low + group, dtype=np.int32), nodes)
        back_R = jnp.asarray(np.tile(alpha_A - 1.0, group), full_LD.dtype)
        shift_RD = back_R[:, None] * full_LD[layer_R]
        value_R, slope_RD = row_gradients(
            lm, prefix, jnp.int32(low + 1), jnp.asarray(layer_R), shift_RD, target=options.target
        )
        slope_LAD = slope_RD.reshape(group, nodes, -1)
        mean_LD = (slope_LAD * jnp.asarray(weight_A, slope_LAD.dtype)[None, :, None]).sum(axis=1)
        gradient_LD.append(mean_LD[first - low :])
        start_L.append(value_R.reshape(group, nodes)[first - low :, -1])
    gradient_LF = to_neurons(lm, every_L, jnp.concatenate(gradient_LD))
    return difference_LF * gradient_LF, jnp.concatenate(start_L)


@functools.partial(jax.jit, static_argnames=("target", "chunk"))
def joint_gradients(
    lm: LanguageModel, prefix: Prefix, patch_ALF: Array, *, target: str, chunk: int
) -> tuple[Float[Array, " A"], Float[Array, "A L F"]]:
    """(target, its gradient) with all layers' neurons at the last prompt token set to a patch."""
    graphdef, stacked = nnx.split(lm.module().blocks)
    rotary = (prefix.cos_TH, prefix.sin_TH)

    def value(patch_LF: Array) -> Array:
        def layer(x_TD: Array, per_layer: tuple):
            state, past_k, past_v, patch_F = per_layer
            block = nnx.merge(graphdef, state)

            def mix(q: Array, k: Array, v: Array) -> Array:
                return attend(q, [past_k, k], [past_v, v], [prefix.mask_TS, prefix.own_mask_TT])

            x_BTD, act_BTF = run_block(block, x_TD[None], rotary, lm.config.rms_eps, mix)
            swap_F = patch_F.astype(act_BTF.dtype) - act_BTF[0, 0]
            return x_BTD[0].at[0].add(swap_F @ block.mlp.down[...]), None

        xs = (stacked, prefix.keys_LSKH, prefix.values_LSKH, patch_LF)
        return target_value(lm, prefix, jax.lax.scan(layer, prefix.entry_TD, xs)[0], target)

    return jax.lax.map(jax.value_and_grad(value), patch_ALF, batch_size=chunk)


def joint_path(lm: LanguageModel, prefix: Prefix, v_q_LF: Array, options: Options):
    """(score_LF, start_L): all layers' neurons move at once; scores sum over all layers."""
    alpha_A, weight_A = nodes_and_weights(options)
    v_pq_LF = prefix.act_LF.astype(v_q_LF.dtype)
    alpha_A = jnp.asarray(alpha_A, v_q_LF.dtype)[:, None, None]
    patch_ALF = v_q_LF[None] + alpha_A * (v_pq_LF - v_q_LF)[None]
    chunk = min(options.chunk or rows_that_fit(lm, prefix), len(alpha_A))
    value_A, slope_ALF = joint_gradients(lm, prefix, patch_ALF, target=options.target, chunk=chunk)
    mean_LF = jnp.einsum("A,ALF->LF", jnp.asarray(weight_A, slope_ALF.dtype), slope_ALF)
    return (v_pq_LF - v_q_LF) * mean_LF, jnp.broadcast_to(value_A[-1], (lm.config.layers,))


def gradient_at_end(lm: LanguageModel, prefix: Prefix, v_q_LF: Array, options: Options):
    """(score_LF, start_L) of plain gradient x activation on the clean prompt; one backward pass."""
    act_LF = prefix.act_LF.astype(v_q_LF.dtype)
    value_A, slope_ALF = joint_gradients(lm, prefix, act_LF[None], target=options.target, chunk=1)
    return act_LF * slope_ALF[0], jnp.broadcast_to(value_A[0], (lm.config.layers,))


def attribute(lm: LanguageModel, example: Example, options: Options) -> Attribution:
    """Scores of every neuron for one example, float32 (float64 for a float64 model)."""
    question = pad_left([example.question], bucket(len(example.question), 64))
    attacked = pad_left([example.attacked], bucket(len(example.attacked), 64))
    length = 1 if options.target == "first_token" else options.answer_tokens
    answer = np.zeros(length, np.int32)
    answer[: len(example.answer)] = example.answer[:length]
    real = np.arange(length) < len(example.answer)
    prefix = run_prefix(lm, attacked[0][0], attacked[1][0], answer, real)
    wide = wide_dtype(prefix.act_LF.dtype)
    v_q_LF = neurons_at_last_token(lm, *question).astype(wide)
    paths = {"layer": layer_path, "joint": joint_path}
    rule = gradient_at_end if options.method == "gradient" else paths[options.path]
    score_LF, start_L = rule(lm, prefix, v_q_LF, options)
    end = target_at_end(lm, prefix, target=options.target)
    arrays = jax.device_get((score_LF, v_q_LF, prefix.act_LF.astype(wide), start_L))
    return Attribution(*map(np.asarray, arrays), end=float(end))


@functools.partial(jax.jit, static_argnames="target")
def target_at_end(lm: LanguageModel, prefix: Prefix, *, target: str) -> Float[Array, ""]:
    """The target on the unpatched attacked prompt."""
    return target_value(lm, prefix, prefix.after_LTD[-1], target)
