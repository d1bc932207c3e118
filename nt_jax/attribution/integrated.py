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

from nt_jax.attribution.plan import Plan, make_plan
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
    """Scores of one example, and what is needed to check and reuse them. All float32 numpy.

    Both weightings come from the same gradients, so both are kept; `weighting` says which was asked
    for. A plain gradient knows no weighting: both are the same then.
    """

    alpha_LF: np.ndarray
    standard_LF: np.ndarray
    weighting: str
    v_q_LF: np.ndarray
    v_pq_LF: np.ndarray
    start_L: np.ndarray  # target with one layer at v_q (all layers, repeated, for path=joint)
    end: float  # target of the clean attacked prompt

    @property
    def score_LF(self) -> np.ndarray:
        """The scores in the weighting that was asked for."""
        return self.alpha_LF if self.weighting == "alpha" else self.standard_LF

    @property
    def completeness_L(self) -> np.ndarray:
        """Per layer, |sum of standard scores - (P(end) - P(start))|: what the nodes miss, in P."""
        return np.abs(self.standard_LF.sum(axis=1) - (self.end - self.start_L))


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
    """(alpha_A, weight_WA): the integration nodes, and one more at alpha 0 that only reads P.

    W = 2 rules: alpha (Eq. 4 as printed) and standard (integrated gradients).
    """
    alpha_A = node_alphas(options.steps, options.nodes)
    weight_WA = np.stack([alpha_A, np.ones_like(alpha_A)]) / options.steps
    return np.append(alpha_A, 0.0), np.pad(weight_WA, ((0, 0), (0, 1)))


def layer_path(lm: LanguageModel, prefix: Prefix, v_q_LF: Array, options: Options):
    """(score_WLF, start_L): one layer's neurons move together, the other layers run freely."""
    layers = lm.config.layers
    alpha_A, weight_WA = nodes_and_weights(options)
    every_L = jnp.arange(layers, dtype=jnp.int32)
    difference_LF = prefix.act_LF.astype(v_q_LF.dtype) - v_q_LF
    # The patch at alpha shifts the stream by (alpha - 1) * difference @ down.
    full_LD = to_shift(lm, every_L, difference_LF)
    layer_R = np.repeat(np.arange(layers, dtype=np.int32), len(alpha_A))
    back_R = np.tile(alpha_A - 1.0, layers)
    total, rows = len(layer_R), rows_of(lm, prefix, options, len(layer_R))
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
    mean_WLD = weighted(weight_WA, slope_LAD.swapaxes(0, 1))
    gradient_WLF = jnp.stack([to_neurons(lm, every_L, mean_LD) for mean_LD in mean_WLD])
    start_L = jnp.concatenate(values).reshape(layers, -1)[:, -1]
    return difference_LF[None] * gradient_WLF, start_L


def rows_of(lm: LanguageModel, prefix: Prefix, options: Options, total: int) -> int:
    """Rows per program, of `total`, as the plan or the user says."""
    prompt, answer = prefix.mask_TS.shape[-1], prefix.answer_T.shape[0]
    return make_plan(lm, prompt, answer, total, options.chunk).rows


def weighted(weight_WA: np.ndarray, slope_A: Array) -> Array:
    """Sums over the nodes (first axis) under each rule, in full precision."""
    weights = jnp.asarray(weight_WA, slope_A.dtype)
    return jnp.einsum("wa,a...->w...", weights, slope_A, precision=jax.lax.Precision.HIGHEST)


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
    """(score_WLF, start_L): all layers' neurons move at once; scores sum over all layers."""
    alpha_A, weight_WA = nodes_and_weights(options)
    v_pq_LF = prefix.act_LF.astype(v_q_LF.dtype)
    alpha_A = jnp.asarray(alpha_A, v_q_LF.dtype)[:, None, None]
    patch_ALF = v_q_LF[None] + alpha_A * (v_pq_LF - v_q_LF)[None]
    chunk = rows_of(lm, prefix, options, len(alpha_A))
    value_A, slope_ALF = joint_gradients(lm, prefix, patch_ALF, target=options.target, chunk=chunk)
    mean_WLF = weighted(weight_WA, slope_ALF)
    return (v_pq_LF - v_q_LF)[None] * mean_WLF, jnp.broadcast_to(value_A[-1], (lm.config.layers,))


def gradient_at_end(lm: LanguageModel, prefix: Prefix, v_q_LF: Array, options: Options):
    """(score_WLF, start_L) of plain gradient x activation on the clean prompt; one backward."""
    act_LF = prefix.act_LF.astype(v_q_LF.dtype)
    value_A, slope_ALF = joint_gradients(lm, prefix, act_LF[None], target=options.target, chunk=1)
    score_LF = act_LF * slope_ALF[0]
    return jnp.stack([score_LF, score_LF]), jnp.broadcast_to(value_A[0], (lm.config.layers,))


def lengths(example: Example, options: Options) -> tuple[int, int, int]:
    """Bucketed tokens of (question, attacked prompt, answer); programs are made for buckets."""
    answer = 1 if options.target == "first_token" else options.answer_tokens
    return bucket(len(example.question), 64), bucket(len(example.attacked), 64), answer


def plan(lm: LanguageModel, example: Example, options: Options) -> Plan:
    """How an example of this size will be cut into programs."""
    _, prompt, answer = lengths(example, options)
    rows = {"layer": (options.steps + 1) * lm.config.layers, "joint": options.steps + 1}
    total = 1 if options.method == "gradient" else rows[options.path]
    return make_plan(lm, prompt - 1, answer, total, options.chunk)


def attribute(lm: LanguageModel, example: Example, options: Options) -> Attribution:
    """Scores of every neuron for one example, float32 (float64 for a float64 model)."""
    question_width, attacked_width, length = lengths(example, options)
    question = pad_left([example.question], question_width)
    attacked = pad_left([example.attacked], attacked_width)
    answer = np.zeros(length, np.int32)
    answer[: len(example.answer)] = example.answer[:length]
    real = np.arange(length) < len(example.answer)
    prefix = run_prefix(lm, attacked[0][0], attacked[1][0], answer, real)
    wide = wide_dtype(prefix.act_LF.dtype)
    v_q_LF = neurons_at_last_token(lm, *question).astype(wide)
    paths = {"layer": layer_path, "joint": joint_path}
    rule = gradient_at_end if options.method == "gradient" else paths[options.path]
    score_WLF, start_L = rule(lm, prefix, v_q_LF, options)
    end = target_at_end(lm, prefix, target=options.target)
    found = jax.device_get((score_WLF, v_q_LF, prefix.act_LF.astype(wide), start_L))
    (alpha_LF, standard_LF), v_q_LF, v_pq_LF, start_L = map(np.asarray, found)
    return Attribution(
        alpha_LF, standard_LF, options.weighting, v_q_LF, v_pq_LF, start_L, float(end)
    )


@functools.partial(jax.jit, static_argnames="target")
def target_at_end(lm: LanguageModel, prefix: Prefix, *, target: str) -> Float[Array, ""]:
    """The target on the unpatched attacked prompt."""
    return target_value(lm, prefix, prefix.after_LTD[-1], target)
