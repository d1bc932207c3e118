"""What tuning under a metric does before its first epoch: the metric itself, and a first move."""

import io
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nt_jax.atomic import write_atomic
from nt_jax.attribution.select import NeuronSet
from nt_jax.mesh import sharding
from nt_jax.train.examples import Pools, metric_rows, safety_rows
from nt_jax.train.maml import unit_rms
from nt_jax.train.metric import Metric, make_metric, slopes
from nt_jax.train.plan import slope_rows
from nt_jax.train.session import Session


def harmless_metric(
    session: Session, neurons: NeuronSet, pools: Pools, folder: Path
) -> Metric | None:
    """The metric of the outer update, its slopes kept in folder/metric.npy; None if not wanted."""
    config, path = session.config.tune, folder / "metric.npy"
    if config.metric_requests == 0:
        return None
    if not path.exists():
        content = io.BytesIO()
        np.save(content, measured_slopes(session, neurons, metric_rows(pools), "metric"))
        write_atomic(path, content.getvalue())
    slope_MP = jax.device_put(np.load(path), sharding(session.lm.mesh, ""))
    return make_metric(slope_MP, config.metric_damping)


def first_move(
    session: Session, theta_P: Array, neurons: NeuronSet, pools: Pools, metric: Metric
) -> Float[Array, " P"]:
    """`theta_P` moved by tune.first_move along the safety targets' mean slope, under the metric.

    The first epochs all step along this direction, each with the noise of its few prompts; one mean
    over many prompts takes their place.
    """
    config = session.config.tune
    rows = safety_rows(pools, max(1, config.metric_requests // 2), config.direct_fraction)
    mean_P = measured_slopes(session, neurons, rows, "first move").mean(axis=0)
    theta_P = theta_P + config.first_move * unit_rms(metric.divide(jnp.asarray(mean_P)))
    return jnp.clip(theta_P, config.factor_min, config.factor_max)


def measured_slopes(
    session: Session, neurons: NeuronSet, rows: Sequence[tuple[str, list[int]]], label: str
) -> Float[np.ndarray, "M P"]:
    """Slopes of (prompt, answer) rows at the untuned model, with a progress bar."""
    config = session.config.tune
    prompts = [session.encode(prompt) for prompt, _ in rows]
    longest = max(map(len, prompts)) + config.answer_tokens
    batch_size, remat = slope_rows(session.config, session.lm.config, longest)
    with session.progress(label, len(rows), "slopes") as advance:
        return slopes(
            session.lm,
            neurons,
            prompts,
            [answer for _, answer in rows],
            answer_width=config.answer_tokens,
            decay=config.token_decay,
            batch_size=batch_size,
            remat=remat,
            advance=advance,
        )
