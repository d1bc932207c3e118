"""Algorithm 1's outer loop: batches, steps, validation, checkpoints, the strength that is kept."""

import dataclasses
import json
import math
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import DTypeLike

from nt_jax.atomic import write_atomic
from nt_jax.config.method import TuneConfig
from nt_jax.console import progress, say
from nt_jax.errors import ConfigError, DivergedError, RunError
from nt_jax.eval.judges.judge import Judge
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import host, put, sharding
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.seal import reading
from nt_jax.train.batcher import make_batcher
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.level import lifted, unlifted
from nt_jax.train.made_from import keep_to
from nt_jax.train.maml import MetaOptions, make_optimiser, meta_step
from nt_jax.train.outer import Regression, kept_slopes, preconditioner_of
from nt_jax.train.own_answers import measured_wordings
from nt_jax.train.preconditioner import Preconditioner
from nt_jax.train.regression import LEVEL
from nt_jax.train.separation import Separation, separation_note
from nt_jax.train.state import History, TuneState, restore, save
from nt_jax.train.strength import as_kept, calibrate, scored
from nt_jax.train.theta import initial_theta, place, scatter, with_known
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.tuning_data import TuningData
from nt_jax.train.validate import (
    NEW_TOKENS,
    Look,
    Validation,
    by_estimate,
    look_at,
    validate,
)

METRICS, STATES, BASE_ANSWERS = "metrics.jsonl", "orbax", "base_validation.json"
UNKEPT = "nt_jax_tune_"  # of a folder that goes


def tune(
    model: ChatModel,
    neurons: NeuronSet,
    data: TuningData,
    config: TuneConfig = TuneConfig(),
    *,
    judge: Judge | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    slopes: CellSlopes | None = None,
    start: Factors | None = None,
) -> Factors:
    """Learn one factor per chosen neuron; the best by validation (see validate.score).

    `folder` keeps metrics.jsonl, lifts.jsonl, strengths.jsonl and orbax/, and is gone on with from
    whatever it holds of this model (more epochs, or another level); without one nothing is kept.
    `judge` says what refuses, the phrase judge unless given. Batches are drawn with `seed`.
    `slopes`: those of these neurons, measured unless given. `start`: factors by neuron to go on
    from; neurons without one begin at those of the settings.
    Raises a DivergedError where losses or factors are not finite, a ConfigError where the model
    lacks a neuron or none is given, a RunError where `folder` holds a tuning of another model,
    of other neurons, data or settings, or of more epochs.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix=UNKEPT) as name:
            settings = {"judge": judge, "seed": seed, "slopes": slopes, "start": start}
            return tune(model, neurons, data, config, folder=Path(name), **settings)
    folder, judge = Path(folder), judge or PhraseJudge()
    neurons.check(model.lm.config.layers, model.lm.config.neurons)
    if not len(neurons):
        raise ConfigError("There is no neuron to tune: its set is empty.")
    keep_to(folder, model.checkpoint_id, neurons, seed, start, data, config, judge)
    tuned, prompts, metric = TunedLayers.of(model.lm, neurons), data.validation, None
    if config.outer == "regression":
        slopes = slopes or kept_slopes(model, tuned, data.pools, config, folder)
        metric = preconditioner_of(slopes, config, model.lm)
    state, base = learn(model, neurons, tuned, data, config, judge, seed, folder, metric, start)
    if base is None:
        state = dataclasses.replace(state, best_P=state.average_P, best_epoch=state.epoch)
    else:
        known, rest = None, (base, folder)
        if metric is not None and config.lifts:
            first_P = fresh_state(config, place(neurons), model.lm.ones_LF.dtype, start).theta_P
            given = (model, tuned, data, config, judge, metric, state, first_P)
            state, known = lifted(*given, *rest)
        state = calibrate(model, neurons, prompts, config, judge, state, *rest, known)
    save(folder / STATES, state)
    return Factors(neurons, np.asarray(host(state.best_P)))


def learn(
    model: ChatModel,
    neurons: NeuronSet,
    tuned: TunedLayers,
    data: TuningData,
    config: TuneConfig,
    judge: Judge,
    seed: int,
    folder: Path,
    metric: Preconditioner | None = None,
    known: Factors | None = None,
) -> tuple[TuneState, Look | None]:
    """(the state after the last epoch, the untuned model's validation if any is wanted).

    `metric`: in whose norm a regression steps.
    """
    lm, placed, prompts = model.lm, place(neurons), data.validation
    batcher, remat = make_batcher(lm, tuned.count, model.encode, data.pools, config, seed)
    if plan := batcher.plan():
        say("plan", plan)
    options, optimiser = meta_options(config, remat), optimiser_of(config)
    constant = config.schedule == "constant"
    start = fresh_state(config, placed, lm.ones_LF.dtype, known)
    state = unlifted(restore(folder / STATES, start) or start, folder)
    if int(state.epoch) > config.epochs:
        raise RunError(
            f"{folder} holds {int(state.epoch)} epochs, more than {config.epochs} (tune.epochs). "
            "Name another folder, or ask for as many."
        )
    if not config.validate_every:  # the best so far would be of factors that were the last before
        state = dataclasses.replace(state, best_epoch=0, best_score=-math.inf)
    regression = metric and Regression(model, tuned, data.pools, config, metric)
    log = History(folder / METRICS, int(state.epoch))
    base = untuned(model, judge, prompts, log, folder / BASE_ANSWERS) if looks(config) else None
    if base is not None and (said := by_estimate(prompts, config.max_over_refusal)):
        say("limits", said)
    separation = None
    if config.separation_every and int(state.epoch) < config.epochs:
        wordings = data.wordings or measured_wordings(model)
        separation = Separation.of(model, tuned, prompts, config, wordings)
    # Placed like what a step gives back, or the second step would be compiled once more.
    state = put(state, sharding(lm.mesh, ""))
    note = ""
    with progress("tune", config.epochs, "epochs", int(state.epoch)) as advance:
        for epoch in range(int(state.epoch), config.epochs):
            if config.patience and int(state.waited) >= config.patience:
                break  # asked before an epoch: a run killed after its last one must not go on
            batch = tuned.enter(batcher.batch(epoch))
            constants = options if constant else at_epoch(options, epoch, config.epochs)
            if regression is not None:
                level = log.last.get(LEVEL, -math.inf)
                theta_P, losses = regression.step(state.theta_P, batch, epoch, constants, level)
                moments = state.optimiser
            else:
                theta_P, moments, losses = meta_step(
                    state.theta_P, state.optimiser, tuned.lm, tuned.neurons, batch,
                    options=constants, optimiser=optimiser,
                )  # fmt: skip
            row = {"epoch": epoch + 1, **{k: float(v) for k, v in losses.items()}}
            _stop_if_diverged(row, theta_P, folder, seed)
            average_P = running_mean(state.average_P, theta_P, epoch, config.average)
            state = dataclasses.replace(
                state, theta_P=theta_P, average_P=average_P, optimiser=moments, epoch=epoch + 1
            )
            if separation is not None and _due(epoch, config.separation_every, config.epochs):
                row |= separation.at(state.average_P)
                note = separation_note(row)
            if (
                base is not None
                and config.validate_every
                and _due(epoch, config.validate_every, config.epochs)
            ):
                now = validate(model, judge, prompts, scatter(average_P, placed, lm.ones_LF))
                row |= scored(now, base, config)
                state = _remember_best(state, as_kept(row["score"]), config.keep)
                note = f"attacks refused {row['refusal_attack']:.0%}"
            log.write(row)
            save(folder / STATES, state)
            losses_now = f"safety {row['safety_loss']:.2f} utility {row['utility_loss']:.2f}"
            part = f"{row['share']:.0%} of the step " if row.get("share", 1.0) < 1 else ""
            advance(1, f"{losses_now} {part}{note}")
    return state, base


def looks(config: TuneConfig) -> bool:
    """Whether anything is generated on the way."""
    return config.validation_answers > 0


def _due(epoch: int, every: int, epochs: int) -> bool:
    """Whether something that is done every so many epochs, and at the end, is due after this."""
    return (epoch + 1) % every == 0 or epoch + 1 == epochs


def untuned(model: ChatModel, judge: Judge, prompts: Validation, log: History, kept: Path) -> Look:
    """Validation of the untuned model, its answers kept: a resumed run only judges them again."""
    if kept.exists():
        with reading(kept):
            ids = json.loads(kept.read_text(encoding="utf-8"))
            kinds = {type(token) for row in ids for token in row}
            if len(ids) != len(prompts.every) or kinds - {int}:
                raise ValueError("not the token ids of an answer to each prompt")
    else:
        ids = model.own_answers(prompts.every, NEW_TOKENS)
        write_atomic(kept, json.dumps(ids).encode())
    base = look_at(model, judge, prompts, ids)
    if log.base is None:
        log.write({"epoch": 0, **base.rates})
    return base


def meta_options(config: TuneConfig, remat: bool) -> MetaOptions:
    """The constants of Algorithm 1 as the settings have them."""
    named = {field.name for field in dataclasses.fields(MetaOptions)}
    numbers = {name: value for name, value in config if name in named}
    numbers |= dict(zip(("factor_min", "factor_max"), config.bounds, strict=True))
    numbers |= {"with_kl": config.kl_weight > 0, "with_margin": config.margin_weight > 0}
    return MetaOptions(**numbers, remat=remat)


def optimiser_of(config: TuneConfig) -> optax.GradientTransformation:
    """The direction of the outer update."""
    return make_optimiser(config.outer, config.clip_norm)


def at_epoch(options: MetaOptions, epoch: int, epochs: int) -> MetaOptions:
    """`options` with meta_lr on its way down a half cosine to a tenth.

    A run that ends in full steps ends with factors that only fit its last batches.
    """
    share = np.asarray(optax.cosine_decay_schedule(1.0, epochs, alpha=0.1)(epoch)).item()
    return dataclasses.replace(options, meta_lr=options.meta_lr * share)


def running_mean(average_P: Array, theta_P: Array, epoch: int, decay: float) -> Array:
    """The exponential mean of the factors; young means forget faster, so the start washes out.

    Single steps see a few prompts each and overshoot; their mean refuses fewer harmless requests
    at the same refusal of harmful ones.
    """
    keep = min(decay, (1 + epoch) / (10 + epoch))
    return keep * average_P + (1 - keep) * theta_P


def _remember_best(state: TuneState, now: float, keep: str) -> TuneState:
    """The state after a validation that scored `now`; the last is the best if that is `keep`."""
    if keep == "best" and now <= float(state.best_score):
        return dataclasses.replace(state, waited=int(state.waited) + 1)
    return dataclasses.replace(
        state, best_P=state.average_P, best_epoch=state.epoch, best_score=now, waited=0
    )


def fresh_state(
    config: TuneConfig,
    neurons: NeuronSet,
    dtype: DTypeLike = jnp.float32,
    known: Factors | None = None,
) -> TuneState:
    """The state before the first epoch (Algorithm 1, lines 1-6), factors in the losses' type.

    Neurons that have a `known` factor begin at it, within the bounds.
    """
    theta_P = initial_theta(neurons, config.init_safety, config.init_utility, dtype)
    if known is not None:
        theta_P = jnp.clip(with_known(theta_P, neurons, known), *config.bounds)
    moments = optimiser_of(config).init(theta_P)
    return TuneState(theta_P, theta_P, moments, 0, theta_P, 0, -math.inf, 0)


def _stop_if_diverged(row: dict, theta_P: jax.Array, folder: Path, seed: int) -> None:
    if all(map(math.isfinite, row.values())) and bool(jnp.isfinite(theta_P).all()):
        return
    before = row["epoch"] - 1
    stays = before > 0 and not folder.name.startswith(UNKEPT)
    kept = f"The factors of epoch {before} are in {folder / STATES}. " if stays else ""
    raise DivergedError(
        f"tuning diverged at epoch {row['epoch']} (its batch is drawn by seed {seed}, epoch "
        f"{before}): {json.dumps({k: str(v) for k, v in row.items()})}. {kept}"
        "Lower tune.meta_lr or tune.inner_lr."
    )
