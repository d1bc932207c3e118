"""What preconditioned tuning does before its first epoch: the preconditioner, and a first move."""

import io
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax.atomic import write_atomic
from nt_jax.config.method import TuneConfig
from nt_jax.console import progress
from nt_jax.data.batching import bucket
from nt_jax.data.packing import LENGTH_STEP, Row, Shape, pack_alone
from nt_jax.data.prompts import Prompt
from nt_jax.data.records import Encode
from nt_jax.mesh import sharding
from nt_jax.train.maml import unit_rms
from nt_jax.train.memory import GradientMemory
from nt_jax.train.pools import Pools, harmless_rows, safety_rows
from nt_jax.train.preconditioner import Preconditioner, make_preconditioner, mean_slope, row_slopes
from nt_jax.train.tuned_layers import TunedLayers

SLOPES = "metric.npy"  # in the folder of tuning


def harmless_preconditioner(
    encode: Encode, tuned: TunedLayers, pools: Pools, config: TuneConfig, folder: Path
) -> Preconditioner | None:
    """That of the outer update, its slopes kept in `folder`; None if it is not wanted."""
    if config.outer != "preconditioned":
        return None
    path = folder / SLOPES
    if not path.exists():
        rows = as_rows(encode, harmless_rows(pools), config.answer_tokens)
        content = io.BytesIO()
        np.save(content, measured_slopes(tuned, rows, config))
        write_atomic(path, content.getvalue())
    slope_MP = jax.device_put(np.load(path), sharding(tuned.lm.mesh, ""))
    return make_preconditioner(slope_MP, config.metric_damping)


def first_move(
    encode: Encode,
    tuned: TunedLayers,
    theta_P: Array,
    pools: Pools,
    preconditioner: Preconditioner,
    config: TuneConfig,
) -> Float[Array, " P"]:
    """`theta_P` moved by tune.first_move along the safety targets' mean slope, preconditioned.

    The first epochs all step along this direction, each with the noise of its few prompts; one mean
    over many prompts takes their place.
    """
    count = max(1, config.metric_requests // 2)
    pairs = safety_rows(pools, count, config.direct_fraction)
    rows = as_rows(encode, pairs, config.answer_tokens)
    memory = GradientMemory.of(tuned.whole, tuned.count)
    _, remat, _ = memory.tuning(max(row.tokens for row in rows), config.sequence_tokens)
    side = tuned.lm.mesh.shape["data"]
    batch = tuned.enter(memory.packed(rows, side, config.sequence_tokens))
    rest = (tuned.neurons, batch, config.token_decay)
    slope_P = mean_slope(tuned.ones_P, tuned.lm, *rest, remat=remat)
    theta_P = theta_P + config.first_move * unit_rms(preconditioner.divide(slope_P))
    return jnp.clip(theta_P, *config.bounds)


def measured_slopes(
    tuned: TunedLayers, rows: Sequence[Row], config: TuneConfig
) -> Float[np.ndarray, "M P"]:
    """Slopes of each row's answer at the untuned model, with a progress bar.

    Rows of like length go together, each in a sequence of its own.
    """
    longest = bucket(max(row.tokens for row in rows), LENGTH_STEP)
    memory = GradientMemory.of(tuned.whole, tuned.count)
    side, remat = memory.slope_rows(longest, tuned.lm.mesh.shape["data"])
    slope_MP = np.zeros((len(rows), len(tuned.neurons)), np.float32)
    order = sorted(range(len(rows)), key=lambda row: rows[row].tokens)
    with progress("metric", len(rows), "slopes") as advance:
        for start in range(0, len(order), side):
            mine = order[start : start + side]
            length = bucket(rows[mine[-1]].tokens, LENGTH_STEP)
            shape = Shape(1, side, length, config.answer_tokens, 1)
            batch = tuned.enter(pack_alone([rows[row] for row in mine], shape))
            rest = (tuned.neurons, jax.tree.map(lambda leaf: leaf[0], batch), config.token_decay)
            found_BP = row_slopes(tuned.ones_P, tuned.lm, *rest, remat=remat)
            slope_MP[mine] = np.asarray(found_BP)[: len(mine)]
            advance(len(mine))
    return slope_MP


def as_rows(encode: Encode, pairs: Sequence[tuple[Prompt, list[int]]], width: int) -> list[Row]:
    """(prompt, answer) pairs as token rows, the answers cut to `width` tokens as in the losses."""
    return [Row(encode(prompt), answer[:width]) for prompt, answer in pairs]
