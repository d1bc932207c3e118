"""What tuning under a metric does before its first epoch: the metric itself, and a first move."""

import io
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax.atomic import write_atomic
from nt_jax.data.batching import bucket
from nt_jax.data.packing import LENGTH_STEP, Row, Shape, pack_alone
from nt_jax.generate.session import Session
from nt_jax.mesh import sharding
from nt_jax.run.dry_run import packed, slope_rows, tuning_tokens
from nt_jax.train.maml import unit_rms
from nt_jax.train.pools import Pools, metric_rows, safety_rows
from nt_jax.train.preconditioner import Metric, make_metric, mean_slope, row_slopes
from nt_jax.train.tuned_layers import Upper


def harmless_metric(session: Session, upper: Upper, pools: Pools, folder: Path) -> Metric | None:
    """The metric of the outer update, its slopes kept in folder/metric.npy; None if not wanted."""
    config, path = session.config.tune, folder / "metric.npy"
    if config.metric_requests == 0:
        return None
    if not path.exists():
        content = io.BytesIO()
        np.save(content, measured_slopes(session, upper, as_rows(session, metric_rows(pools))))
        write_atomic(path, content.getvalue())
    slope_MP = jax.device_put(np.load(path), sharding(upper.lm.mesh, ""))
    return make_metric(slope_MP, config.metric_damping)


def first_move(
    session: Session, upper: Upper, theta_P: Array, pools: Pools, metric: Metric
) -> Float[Array, " P"]:
    """`theta_P` moved by tune.first_move along the safety targets' mean slope, under the metric.

    The first epochs all step along this direction, each with the noise of its few prompts; one mean
    over many prompts takes their place.
    """
    config, lm = session.config.tune, upper.lm
    count = max(1, config.metric_requests // 2)
    rows = as_rows(session, safety_rows(pools, count, config.direct_fraction))
    longest = max(row.tokens for row in rows)
    _, remat, _ = tuning_tokens(session.config, session.lm.config, longest)
    batch = upper.enter(packed(session.config, session.lm, rows))
    slope_P = mean_slope(upper.ones_P, lm, upper.neurons, batch, config.token_decay, remat=remat)
    theta_P = theta_P + config.first_move * unit_rms(metric.divide(slope_P))
    return jnp.clip(theta_P, config.factor_min, config.factor_max)


def measured_slopes(
    session: Session, upper: Upper, rows: Sequence[Row]
) -> Float[np.ndarray, "M P"]:
    """Slopes of each row's answer at the untuned model, with a progress bar.

    Rows of like length go together, each in a sequence of its own.
    """
    config = session.config.tune
    longest = bucket(max(row.tokens for row in rows), LENGTH_STEP)
    side, remat = slope_rows(session.config, session.lm.config, longest)
    slope_MP = np.zeros((len(rows), len(upper.neurons)), np.float32)
    order = sorted(range(len(rows)), key=lambda row: rows[row].tokens)
    with session.progress("metric", len(rows), "slopes") as advance:
        for start in range(0, len(order), side):
            mine = order[start : start + side]
            length = bucket(rows[mine[-1]].tokens, LENGTH_STEP)
            shape = Shape(1, side, length, config.answer_tokens, 1)
            batch = upper.enter(pack_alone([rows[row] for row in mine], shape))
            found_BP = row_slopes(
                upper.ones_P, upper.lm, upper.neurons, jax.tree.map(lambda leaf: leaf[0], batch),
                config.token_decay, remat=remat,
            )  # fmt: skip
            slope_MP[mine] = np.asarray(found_BP)[: len(mine)]
            advance(len(mine))
    return slope_MP


def as_rows(session: Session, pairs: Sequence[tuple[str, list[int]]]) -> list[Row]:
    """(prompt, answer) pairs as token rows, the answers cut as in the losses."""
    width = session.config.tune.answer_tokens
    return [Row(session.encode(prompt), answer[:width]) for prompt, answer in pairs]
