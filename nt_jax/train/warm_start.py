"""What preconditioned tuning does before its first epoch: slopes, preconditioner, a first move."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
from jaxtyping import Array, Float

from nt_jax.config.method import TuneConfig
from nt_jax.data.training import evenly
from nt_jax.errors import DivergedError
from nt_jax.generate.chat import ChatModel
from nt_jax.generate.likelihood import answer_nll
from nt_jax.mesh import put, sharding
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.cells import CELLS, cell_rows
from nt_jax.train.maml import MetaOptions
from nt_jax.train.pools import Pools
from nt_jax.train.preconditioner import Preconditioner, make_preconditioner, separating
from nt_jax.train.slopes import FILE as SLOPES
from nt_jax.train.slopes import CellSlopes, cell_slopes
from nt_jax.train.state import TuneState
from nt_jax.train.tuned_layers import TunedLayers

COSTED = 64  # requests whose refusals are looked at: a mean


def refusal_cost(model: ChatModel, pools: Pools, config: TuneConfig) -> float:
    """What the refusals to be learned cost the untuned model, in nats per token.

    Of bare harmful requests. Words of ours cost about thrice as much as those that a model uses by
    itself, so steps are shares of this.
    """
    pairs = evenly([*pools.local_safety.direct, *pools.global_safety.direct], COSTED)
    asked = [model.encode(pair.request) for pair in pairs]
    refusals = [pair.answer[: config.answer_tokens] for pair in pairs]
    rows = answer_nll(model.lm, model.lm.ones_LF, asked, refusals, batch_size=model.batch_size)
    nats, tokens = rows.sum(axis=0)
    return float(nats / tokens)


def kept_slopes(
    model: ChatModel, tuned: TunedLayers, pools: Pools, config: TuneConfig, folder: Path
) -> CellSlopes:
    """Those of the chosen neurons, from `folder` where they were measured before."""
    if not (path := folder / SLOPES).exists():
        rows = cell_rows(pools, config.metric_requests // len(CELLS))
        cell_slopes(model, tuned, rows, config).save(path)
    return CellSlopes.load(path)


def preconditioned(
    slopes: CellSlopes,
    start: TuneState,
    options: MetaOptions,
    config: TuneConfig,
    lm: LanguageModel,
    cost: float,
    move: float,
) -> tuple[Preconditioner, TuneState, MetaOptions]:
    """(the preconditioner, the state after the first move, the options with a step of that kind).

    `cost` is that of `refusal_cost`; `move` is how far to go first, as a share of it.
    """
    preconditioner, move_P, gain = first_move(slopes, config, lm, cost, move)
    moved_P = jnp.clip(start.theta_P + move_P, *config.bounds).astype(start.theta_P.dtype)
    start = dataclasses.replace(start, theta_P=moved_P, average_P=moved_P, best_P=moved_P)
    return preconditioner, start, dataclasses.replace(options, meta_lr=config.meta_lr / gain)


def first_move(
    slopes: CellSlopes, config: TuneConfig, lm: LanguageModel, cost: float, move: float
) -> tuple[Preconditioner, Float[Array, " P"], float]:
    """(the preconditioner, the first move, the share of `cost` that a unit of such a move gains).

    `move`: the share of `cost` that the first move is to gain.
    The first epochs would all step along one direction, each with the noise of its few prompts; one
    mean over many prompts takes their place.
    """
    unwanted_MP = put(slopes.unwanted_MP, sharding(lm.mesh, ""))
    preconditioner = make_preconditioner(unwanted_MP, config.metric_damping)
    way_P, gain = separating(slopes, preconditioner)
    if not gain > 0:
        raise DivergedError(
            "the slopes of harmful and harmless training requests do not differ: nothing tells "
            "them apart. Check that data.harmful and data.harmless hold different requests."
        )
    return preconditioner, move * cost / gain * way_P, gain / cost
