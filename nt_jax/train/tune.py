"""Algorithm 1's outer loop as a run: batches, steps, validation, checkpoints, early stop."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nt_jax.attribution.select import NeuronSet
from nt_jax.config.schema import RunConfig, TuneConfig
from nt_jax.errors import DivergedError
from nt_jax.generate.session import Session
from nt_jax.mesh import sharding
from nt_jax.run.dry_run import sequence_cost, tuning_tokens
from nt_jax.train.batcher import Batcher
from nt_jax.train.history import Metrics
from nt_jax.train.maml import MetaOptions, make_optimiser, meta_step
from nt_jax.train.margins import Margins, read_base_answers
from nt_jax.train.pools import Pools, undivided
from nt_jax.train.state import TuneState, restore, save
from nt_jax.train.theta import initial_theta, place, scatter
from nt_jax.train.tuned_layers import Upper
from nt_jax.train.validate import KINDS, Validation, score, validate
from nt_jax.train.warm_start import first_move, harmless_metric


def meta_options(tune: TuneConfig, remat: bool) -> MetaOptions:
    """The constants of Algorithm 1 as the recipe sets them."""
    return MetaOptions(
        inner_lr=tune.inner_lr,
        meta_lr=tune.meta_lr,
        safety_weight=tune.safety_weight,
        kl_weight=tune.kl_weight,
        margin_weight=tune.margin_weight,
        token_decay=tune.token_decay,
        factor_min=tune.factor_min,
        factor_max=tune.factor_max,
        order=tune.order,
        inner_steps=tune.inner_steps,
        utility_sign=tune.utility_sign,
        with_kl=tune.kl_weight > 0,
        with_margin=tune.margin_weight > 0,
        remat=remat,
    )


def tune(
    session: Session, neurons: NeuronSet, pools: Pools, prompts: Validation, folder: Path
) -> TuneState:
    """Learn theta in `folder` (metrics.jsonl, orbax/), going on from what is already there."""
    config, lm = session.config.tune, session.lm
    placed = place(neurons)
    upper = Upper.of(lm, neurons)
    batcher, remat = make_batcher(session, session.config, pools)
    session.say("plan", batcher.plan())
    options = meta_options(config, remat)
    metric = harmless_metric(session, upper, pools, folder)
    optimiser = make_optimiser(config.clip_norm, config.metric_requests > 0)
    fresh = fresh_state(config, placed)
    state = restore(folder / "orbax", fresh)
    if state is None:
        state = fresh
        if metric is not None and config.first_move > 0:
            theta_P = first_move(session, upper, fresh.theta_P, pools, metric)
            state = dataclasses.replace(fresh, theta_P=theta_P, average_P=theta_P, best_P=theta_P)
    log = Metrics(folder / "metrics.jsonl", int(state.epoch))
    kept = folder / "base_validation.json"
    base = log.base or log.write({"epoch": 0, **validate(session, prompts, lm.ones_LF, kept)})
    margins = None
    if config.margins_every:
        own = read_base_answers(kept)
        margins = Margins.of(session, upper, prompts, own, batcher.refusals)
    # Placed like what a step gives back, or the second step would be compiled once more.
    state = jax.device_put(state, sharding(lm.mesh, ""))
    theta_P, moments = state.theta_P, state.optimiser
    note = ""
    with session.progress("tune", config.epochs, "epochs") as advance:
        advance(int(state.epoch))
        for epoch in range(int(state.epoch), config.epochs):
            if config.patience and int(state.waited) >= config.patience:
                break  # asked before an epoch: a run killed after its last one must not go on
            batch = upper.enter(batcher.batch(epoch))
            theta_P, moments, losses = meta_step(
                theta_P, moments, upper.lm, upper.neurons, batch, metric,
                options=at_epoch(options, epoch, config.epochs), optimiser=optimiser,
            )  # fmt: skip
            row = {"epoch": epoch + 1, **{k: float(v) for k, v in losses.items()}}
            _stop_if_diverged(row, theta_P, folder, session.config.seed)
            average_P = running_mean(state.average_P, theta_P, epoch, config.average)
            state = dataclasses.replace(
                state, theta_P=theta_P, average_P=average_P, optimiser=moments, epoch=epoch + 1
            )
            if margins is not None and (epoch + 1) % config.margins_every == 0:
                row |= margins.at(state.average_P)
                note = margins_note(row)
            if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
                row |= validate(session, prompts, scatter(state.average_P, placed, lm.ones_LF))
                row["score"] = score(row, base, config.max_over_refusal)
                state = _remember_best(state, as_kept(row["score"]))
                note = f"attacks refused {row['refusal_attack']:.0%}"
            log.write(row)
            save(folder / "orbax", state)
            losses_now = f"safety {row['safety_loss']:.2f} utility {row['utility_loss']:.2f}"
            advance(1, f"{losses_now} {note}")
    return calibrate(session, state, placed, prompts, base, folder)


def make_batcher(session: Session, config: RunConfig, pools: Pools) -> tuple[Batcher, bool]:
    """(the batches, whether to recompute layers), as `config` and the memory allow.

    Without an inner loop nothing is kept apart for it.
    """
    pools = pools if config.tune.inner_steps else undivided(pools)
    model, side = session.lm.config, session.lm.mesh.shape["data"]
    batcher = Batcher(pools, session.encode, config.tune, config.seed, side)
    most, remat, _ = tuning_tokens(config, model, batcher.longest)
    batcher.choose_shapes(most, sequence_cost(model))
    return batcher, remat


def calibrate(
    session: Session,
    state: TuneState,
    neurons: NeuronSet,
    prompts: Validation,
    base: dict,
    folder: Path,
) -> TuneState:
    """The state with the best strength of its last factors kept, where that beats every epoch.

    Strength s goes the share s of the way from 1 to the learned factors. Tuning decides which
    neurons to turn and how far against each other; how far in all trades refusals of attacks for
    refusals of harmless requests, and is cheap to choose afterwards.
    """
    config, lm = session.config.tune, session.lm
    log = Metrics(folder / "strengths.jsonl", 0)
    with session.progress("strength", len(config.strengths), "strengths") as advance:
        for strength in config.strengths:
            theta_P = at_strength(state, strength, config)
            row = validate(session, prompts, scatter(theta_P, neurons, lm.ones_LF))
            now = score(row, base, config.max_over_refusal)
            log.write({"epoch": int(state.epoch), "strength": strength, **row, "score": now})
            if as_kept(now) > float(state.best_score):
                state = dataclasses.replace(
                    state, best_P=theta_P, best_epoch=state.epoch, best_score=as_kept(now)
                )
            advance(1)
    save(folder / "orbax", state)
    return state


def at_strength(state: TuneState, strength: float, config: TuneConfig) -> Array:
    """The share `strength` of the way from 1 to the last factors, within their bounds."""
    theta_P = 1 + strength * (state.average_P - 1)
    return jnp.clip(theta_P, config.factor_min, config.factor_max)


def at_epoch(options: MetaOptions, epoch: int, epochs: int) -> MetaOptions:
    """`options` with meta_lr on its way down a half cosine to a tenth.

    A run that ends in full steps ends with factors that only fit its last batches.
    """
    share = 0.1 + 0.45 * (1 + math.cos(math.pi * epoch / epochs))
    return dataclasses.replace(options, meta_lr=options.meta_lr * share)


def running_mean(average_P: Array, theta_P: Array, epoch: int, decay: float) -> Array:
    """The exponential mean of the factors; young means forget faster, so the start washes out.

    Single steps see a few prompts each and overshoot; their mean refuses fewer harmless requests
    at the same refusal of harmful ones.
    """
    keep = min(decay, (1 + epoch) / (10 + epoch))
    return keep * average_P + (1 - keep) * theta_P


def as_kept(score: float) -> float:
    """A score as a checkpoint keeps it: a resumed run breaks ties as an uninterrupted one does."""
    return float(np.float32(score))


def margins_note(row: dict) -> str:
    """The margins of an epoch as the progress line shows them."""
    shown = [f"{kind} {row[f'margin_{kind}']:+.1f}" for kind in KINDS if f"margin_{kind}" in row]
    return f"margins {' '.join(shown)}"


def _remember_best(state: TuneState, now: float) -> TuneState:
    """The state after a validation that scored `now`."""
    if now <= float(state.best_score):
        return dataclasses.replace(state, waited=int(state.waited) + 1)
    return dataclasses.replace(
        state, best_P=state.average_P, best_epoch=state.epoch, best_score=now, waited=0
    )


def fresh_state(config: TuneConfig, neurons: NeuronSet) -> TuneState:
    """The state before the first epoch (Algorithm 1, lines 1-6)."""
    theta_P = initial_theta(neurons, config.init_safety, config.init_utility)
    moments = make_optimiser(config.clip_norm, config.metric_requests > 0).init(theta_P)
    return TuneState(theta_P, theta_P, moments, 0, theta_P, 0, -math.inf, 0)


def _stop_if_diverged(row: dict, theta_P: jax.Array, folder: Path, seed: int) -> None:
    if all(map(math.isfinite, row.values())) and bool(jnp.isfinite(theta_P).all()):
        return
    before = row["epoch"] - 1
    kept = f"The factors of epoch {before} are in {folder / 'orbax'}. " if before else ""
    raise DivergedError(
        f"tuning diverged at epoch {row['epoch']} (its batch is drawn by seed {seed}, epoch "
        f"{before}): {json.dumps({k: str(v) for k, v in row.items()})}. {kept}Lower "
        "tune.meta_lr or tune.inner_lr."
    )


def full_scale(theta_P: np.ndarray, neurons: NeuronSet, shape: tuple[int, int]) -> np.ndarray:
    """float32 [L, F]: theta at the chosen neurons, exactly 1 elsewhere."""
    scale_LF = np.ones(shape, np.float32)
    scale_LF[neurons.layer_P, neurons.index_P] = theta_P
    return scale_LF
