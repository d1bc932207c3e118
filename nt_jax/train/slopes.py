"""What every factor does to the log-likelihood of answers, prompt by prompt, at the untuned model.

M rows, P neurons, B sequences.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax import cache
from nt_jax.config.method import TuneConfig
from nt_jax.console import progress
from nt_jax.data.batching import bucket
from nt_jax.data.packing import (
    LENGTH_STEP,
    PADDING,
    PackedBatch,
    Row,
    Shape,
    pack_prompts,
    tokens_together,
)
from nt_jax.data.prompts import Prompt
from nt_jax.generate.chat import ChatModel
from nt_jax.models.head import target_log_probs
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import CELLS, OWN, Rows
from nt_jax.train.memory import GradientMemory
from nt_jax.train.objectives import log_likelihoods, row_sum, target_states
from nt_jax.train.theta import scatter
from nt_jax.train.tuned_layers import TunedLayers

TARGET_STEP = 8  # answers' widths are multiples of this: few shapes, few compilations
# Of a batch, signs of its tokens where drift is wanted, whether to recompute layers: [B, P].
SlopesOf = Callable[[PackedBatch, np.ndarray | None, bool], Array]


def every_neuron(layers: int, width: int, first_layer: int) -> NeuronSet:
    """All neurons of the layers from `first_layer` on, layer by layer."""
    layer_P, index_P = np.divmod(np.arange(first_layer * width, layers * width), width)
    return NeuronSet(
        layer_P.astype(np.int32), index_P.astype(np.int32), np.ones(len(layer_P), bool)
    )


def cell_slopes(
    model: ChatModel, tuned: TunedLayers, cells: Mapping[str, Rows], config: TuneConfig
) -> CellSlopes:
    """The slopes of these rows in the neurons of `tuned`, kept between runs (nt_jax/cache.py)."""
    places = [np.asarray(leaf).tolist() for leaf in (tuned.neurons.layer_P, tuned.neurons.index_P)]
    about = {"first": tuned.first, "neurons": places}

    def measure(groups: Sequence[Sequence[Row]], drift: bool) -> np.ndarray:
        return measured_slopes(tuned, groups, config, drift=drift)

    return kept_cells(model, cells, config, about, measure)


def kept_cells(
    model: ChatModel,
    cells: Mapping[str, Rows],
    config: TuneConfig,
    about: Mapping[str, Any],
    measure: Callable[[Sequence[Sequence[Row]], bool], np.ndarray],
) -> CellSlopes:
    """What `measure` (of prompts, whether of their drift) says, in whatever `about` names."""

    def group(prompt: Prompt, answers: Sequence[Sequence[int]]) -> list[Row]:
        ids = model.encode(prompt)
        return [Row(ids, answer[: config.answer_tokens]) for answer in answers]

    groups = {name: [group(*row) for row in rows] for name, rows in cells.items()}
    refused = [group for name in CELLS for group in groups[name]]
    asked = [
        (list(rows[0].prompt), [list(row.answer) for row in rows])
        for rows in (*refused, *groups[OWN])
    ]
    settings = {"decay": config.token_decay, "model": model.identity, "drift": len(groups[OWN])}

    def make() -> dict[str, np.ndarray]:
        drift_MP = measure(groups[OWN], True)
        return {"slope_MP": measure(refused, False), "drift_MP": drift_MP}

    slope_MP, drift_MP = cache.kept({"slopes of": asked, **about, **settings}, make).values()
    ends = np.cumsum([len(groups[name]) for name in CELLS])[:-1]
    found = dict(zip(CELLS, np.split(slope_MP, ends), strict=True))
    return CellSlopes(found | {OWN: drift_MP})


def measured_slopes(
    tuned: TunedLayers, groups: Sequence[Sequence[Row]], config: TuneConfig, *, drift: bool = False
) -> Float[np.ndarray, "M P"]:
    """Slopes in the factors of `tuned`: of the mean over the answers of each group, one prompt's.

    With `drift`, those of `drift_of`.
    """

    def slopes(batch: PackedBatch, sign_BQ: np.ndarray | None, remat: bool) -> Array:
        rest = (tuned.neurons, batch, config.token_decay, sign_BQ)
        return row_slopes(tuned.ones_P, tuned.lm, *rest, remat=remat)

    return by_prompts(tuned, groups, len(tuned.neurons), slopes, drift)


def by_prompts(
    tuned: TunedLayers,
    groups: Sequence[Sequence[Row]],
    count: int,
    slopes: SlopesOf,
    drift: bool,
) -> Float[np.ndarray, "M P"]:
    """`slopes` of all groups, [groups, count].

    Those of like length and number of answers go together, each in a sequence of its own.
    """
    tokens = [*map(tokens_together, groups)]
    memory = GradientMemory.of(tuned.whole, tuned.count)
    longest = bucket(max(tokens), LENGTH_STEP)
    side, remat = memory.slope_rows(longest, tuned.lm.mesh.shape["data"])
    slope_MP = np.zeros((len(groups), count), np.float32)
    with progress("slopes", len(groups), "slopes") as advance:
        for mine in _batches(groups, tokens, side):
            length = bucket(tokens[mine[-1]], LENGTH_STEP)
            targets = max(sum(row.targets for row in groups[n]) for n in mine)
            rows = len(groups[mine[0]])
            shape = Shape(1, side, length, bucket(targets, TARGET_STEP), rows)
            batch = tuned.enter(pack_prompts([groups[n] for n in mine], shape))
            sign_BQ = signs(mine, shape) if drift else None
            found_BP = slopes(jax.tree.map(lambda leaf: leaf[0], batch), sign_BQ, remat)
            slope_MP[mine] = np.asarray(found_BP)[: len(mine)]
            advance(len(mine))
    return slope_MP


def _batches(
    groups: Sequence[Sequence[Row]], tokens: Sequence[int], side: int
) -> Iterator[list[int]]:
    """Numbers of at most `side` groups with equally many answers, the shortest first."""
    for count in sorted({len(group) for group in groups}):
        alike = [n for n, group in enumerate(groups) if len(group) == count]
        order = sorted(alike, key=lambda n: tokens[n])
        yield from (order[start : start + side] for start in range(0, len(order), side))


@functools.partial(jax.jit, static_argnames="remat")
def row_slopes(
    theta_P: Array,
    lm: LanguageModel,
    neurons: NeuronSet,
    batch: PackedBatch,
    decay: Array | float,
    sign_BQ: Array | np.ndarray | None = None,
    *,
    remat: bool = False,
) -> Float[Array, "B P"]:
    """Slope in the factors of `row_value` of each sequence, whose rows share a prompt."""

    def value(theta_P: Array, row: PackedBatch, sign_Q: Array | None) -> Array:
        scale_LF = scatter(theta_P, neurons, lm.ones_LF)
        return row_value(lm, scale_LF, row, decay, sign_Q, remat=remat)

    return jax.vmap(jax.grad(value), (None, 0, 0))(theta_P, batch, sign_BQ)


def row_value(
    lm: LanguageModel,
    scale_LF: Array,
    row: PackedBatch,
    decay: Array | float,
    sign_Q: Array | None,
    *,
    remat: bool = False,
) -> Float[Array, ""]:
    """Mean log-likelihood of a sequence's answers, per token; with `sign_Q`, `drift_of` of one."""
    alone = jax.tree.map(lambda leaf: leaf[None], row)
    if sign_Q is not None:
        return drift_of(lm, scale_LF, alone, sign_Q, remat=remat)
    mean_BR = log_likelihoods(lm, scale_LF, alone, decay=decay, remat=remat)[..., 0]
    total = jnp.asarray(alone.weight_BR, mean_BR.dtype).sum()  # zero in a sequence that only fills
    return row_sum(mean_BR, alone) / jnp.maximum(total, jnp.finfo(mean_BR.dtype).tiny)


def drift_of(
    lm: LanguageModel, scale_LF: Array, row: PackedBatch, sign_Q: Array, *, remat: bool = False
) -> Float[Array, ""]:
    """Sum of the answer's token log-likelihoods under random signs, over the root of their number.

    The mean log-likelihood hardly moves where one token gets likelier and another less; an answer
    drifts all the same. Over random signs the square of this slope is the sum of the tokens'
    squares: what a change does to every token (a sketch of the Fisher information).
    """
    model, x_BQD = target_states(lm, scale_LF, row, remat=remat)
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
