"""What every factor does to the decision to refuse, and to good answers, row by row.

To first order factors are a linear classifier: a refusal of prompt x gains sum_i delta_i s_i(x),
s_i its slope in factor i. The slopes of the four cells therefore say which neurons tell harmful
from harmless requests (nt_jax/attribution/contrastive.py), and which change of the factors parts
the two (nt_jax/train/regression.py); those of good answers say which change leaves the rest alone
(nt_jax/train/preconditioner.py). M rows, P neurons, B sequences.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax.config.method import TuneConfig
from nt_jax.console import progress
from nt_jax.data.batching import bucket
from nt_jax.data.packing import (
    LENGTH_STEP,
    PADDING,
    PackedBatch,
    Row,
    Shape,
    pack_alone,
    shared_beside,
)
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import host, row_ways
from nt_jax.models.fused_attention import attention_of
from nt_jax.models.head import target_log_probs
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.cells import Rows
from nt_jax.train.memory import GradientMemory, free_programs
from nt_jax.train.objectives import decisions, log_likelihoods, target_states
from nt_jax.train.theta import scatter
from nt_jax.train.tuned_layers import TunedLayers

TARGET_STEP = 8  # answers' widths are multiples of this: few shapes, few compilations
DECISION, LIKELIHOOD, DRIFT = "decision", "likelihood", "drift"  # what a slope is one of
Settings = dict[str, Any]  # of a `row_value`: what, remat and shared_1SD
SlopesOf = Callable[[PackedBatch, np.ndarray, Settings], tuple[Array, Array]]  # values and slopes
Measured = tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M P"]]


def every_neuron(layers: int, width: int, first_layer: int) -> NeuronSet:
    """All neurons of the layers from `first_layer` on, layer by layer."""
    layer_P, index_P = np.divmod(np.arange(first_layer * width, layers * width), width)
    return NeuronSet(
        layer_P.astype(np.int32), index_P.astype(np.int32), np.ones(len(layer_P), bool)
    )


def answer_rows(model: ChatModel, rows: Rows, config: TuneConfig) -> list[Row]:
    """As they are packed: prompts as token ids, answers cut to what the losses read."""
    return [Row(model.encode(prompt), ids[: config.answer_tokens]) for prompt, ids in rows]


def begun(model: ChatModel, rows: Sequence[Row]) -> list[Row]:
    """Rows whose answers, refusals, are cut before their first comma: "I'm sorry".

    What a good answer may not even begin with. "I'm sorry for the confusion, but ..." declines as
    well, and makes no use of the words that come later in a refusal.
    """

    def length(ids: Sequence[int]) -> int:
        firsts = range(1, len(ids))
        return next((n for n in firsts if "," in model.text(ids[: n + 1])), len(ids))

    return [dataclasses.replace(row, answer=row.answer[: length(row.answer)]) for row in rows]


def measured_slopes(tuned: TunedLayers, theta_P: Array, rows: Sequence[Row], what: str) -> Measured:
    """(`row_value` of each row, its slope in the factors of `tuned`) at the factors `theta_P`."""

    def slopes(batch: PackedBatch, sign_BQ: np.ndarray, settings: Settings):
        return row_slopes(theta_P, tuned.lm, tuned.neurons, batch, sign_BQ, **settings)

    return by_rows(tuned, rows, len(tuned.neurons), slopes, what)


def measured_values(
    tuned: TunedLayers, theta_P: Array, rows: Sequence[Row], what: str
) -> Float[np.ndarray, " M"]:
    """`row_value` of each row at the factors `theta_P`: a third of the work of a slope."""

    def alone(batch: PackedBatch, sign_BQ: np.ndarray, settings: Settings):
        value_B = row_values(theta_P, tuned.lm, tuned.neurons, batch, sign_BQ, **settings)
        return value_B, jnp.zeros((len(value_B), 0), np.float32)

    return by_rows(tuned, rows, 0, alone, what)[0]


def by_rows(
    tuned: TunedLayers, rows: Sequence[Row], count: int, slopes: SlopesOf, what: str
) -> Measured:
    """`slopes` of all rows: float64 values [rows], float32 slopes [rows, count].

    Rows of like length go together, each in a sequence of its own. What they all begin with, a
    system prompt, runs beside them.
    """
    free_programs()
    shared = shared_beside(rows)
    longest = bucket(max((row.tokens for row in rows), default=1), LENGTH_STEP)
    memory = GradientMemory.of(tuned.whole, tuned.count)
    side, remat = memory.slope_rows(longest, row_ways(tuned.lm.mesh))
    value_M, slope_MP = np.zeros(len(rows)), np.zeros((len(rows), count), np.float32)
    order = sorted(range(len(rows)), key=lambda row: rows[row].tokens)
    with progress("slopes", len(rows), "slopes") as advance:
        for start in range(0, len(order), side):
            mine = order[start : start + side]
            length = bucket(rows[mine[-1]].tokens - shared, LENGTH_STEP)
            targets = bucket(max(rows[row].targets for row in mine), TARGET_STEP)
            shape = Shape(1, side, length, targets, 1)
            packed = pack_alone([rows[row] for row in mine], shape, shared)
            batch = jax.tree.map(lambda leaf: leaf[0], packed)
            batch, shared_1SD = tuned.enter_behind(batch, rows[mine[0]].prompt[:shared])
            settings = {"what": what, "remat": remat, "shared_1SD": shared_1SD}
            value_B, slope_BP = slopes(batch, signs(mine, shape), settings)
            value_B, slope_BP = host((value_B, slope_BP))
            value_M[mine], slope_MP[mine] = value_B[: len(mine)], slope_BP[: len(mine)]
            advance(len(mine))
    return value_M, slope_MP


@functools.partial(jax.jit, static_argnames=("what", "remat"))
def row_slopes(
    theta_P: Array,
    lm: LanguageModel,
    neurons: NeuronSet,
    batch: PackedBatch,
    sign_BQ: Array | np.ndarray,
    *,
    what: str,
    remat: bool = False,
    shared_1SD: Array | None = None,
) -> tuple[Float[Array, " B"], Float[Array, "B P"]]:
    """(`row_value` of each sequence's only row, its slope in the factors)."""
    settings = {"what": what, "remat": remat, "shared_1SD": shared_1SD}

    def value(theta_P: Array, row: PackedBatch, sign_Q: Array) -> Array:
        scale_LF = scatter(theta_P, neurons, lm.ones_LF)
        return row_value(lm, scale_LF, row, sign_Q, **settings)

    return jax.vmap(jax.value_and_grad(value), (None, 0, 0))(theta_P, batch, sign_BQ)


@functools.partial(jax.jit, static_argnames=("what", "remat"))
def row_values(
    theta_P: Array,
    lm: LanguageModel,
    neurons: NeuronSet,
    batch: PackedBatch,
    sign_BQ: Array | np.ndarray,
    **settings: Any,
) -> Float[Array, " B"]:
    """`row_value` of each sequence's only row."""
    scale_LF = scatter(theta_P, neurons, lm.ones_LF)
    return jax.vmap(lambda row, sign_Q: row_value(lm, scale_LF, row, sign_Q, **settings))(
        batch, jnp.asarray(sign_BQ)
    )


def row_value(
    lm: LanguageModel,
    scale_LF: Array,
    row: PackedBatch,
    sign_Q: Array,
    *,
    what: str,
    **settings: Any,
) -> Float[Array, ""]:
    """Of a sequence's only answer: its decision, its mean log-likelihood, or its `drift_of`.

    `settings` are those of `target_states`. Differentiated once at most.
    """
    settings["attention"] = attention_of(lm)
    alone = jax.tree.map(lambda leaf: leaf[None], row)
    if what == DRIFT:
        return drift_of(lm, scale_LF, alone, sign_Q, **settings)
    if what == DECISION:
        return decisions(lm, scale_LF, alone, **settings)[0, 0]
    return log_likelihoods(lm, scale_LF, alone, **settings)[0, 0, 0]


def drift_of(
    lm: LanguageModel, scale_LF: Array, row: PackedBatch, sign_Q: Array, **settings: Any
) -> Float[Array, ""]:
    """Sum of the answer's token log-likelihoods under random signs, over the root of their number.

    The mean log-likelihood hardly moves where one token gets likelier and another less; an answer
    drifts all the same. Over random signs the square of this slope is the sum of the tokens'
    squares: what a change does to every token (a sketch of the Fisher information).
    """
    model, x_BQD = target_states(lm, scale_LF, row, **settings)
    log_prob_Q = target_log_probs(lm, model, x_BQD, jnp.asarray(row.target_BQ))[0]
    real_Q = jnp.asarray(row.answer_BQ[0]) != PADDING
    tokens = jnp.maximum(real_Q.sum(), 1).astype(log_prob_Q.dtype)
    signed_Q = log_prob_Q * jnp.asarray(sign_Q, log_prob_Q.dtype)
    return jnp.where(real_Q, signed_Q, 0).sum() * jax.lax.rsqrt(tokens)


def signs(rows: Sequence[int], shape: Shape) -> Float[np.ndarray, "B Q"]:
    """Random signs of the tokens of each row, the same for a row wherever it is."""
    found_BQ = np.ones((shape.side, shape.targets), np.float32)
    for place, row in enumerate(rows):
        draw = np.random.default_rng([row, 11])
        found_BQ[place] = draw.choice([-1.0, 1.0], shape.targets)
    return found_BQ
