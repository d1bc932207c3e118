"""How far to go in all: the strength of the learned factors, chosen on validation answers."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from nt_jax.config.method import TuneConfig
from nt_jax.console import progress
from nt_jax.eval.judges.judge import Judge
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import host
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.seal import reading
from nt_jax.train.state import History, TuneState
from nt_jax.train.theta import place, scatter
from nt_jax.train.validate import Look, Validation, rises, score, validate

STRENGTHS = "strengths.jsonl"
ROUNDING = 1e-6  # of a factor that is moved in float32


def scored(now: Look, base: Look, config: TuneConfig) -> dict[str, float]:
    """What a look at validation is written down as."""
    value = score(now, base, config.max_over_refusal)
    return now.rates | rises(now, base) | {"score": value}


def as_kept(score: float) -> float:
    """A score as a checkpoint keeps it: a resumed run breaks ties as an uninterrupted one does."""
    return float(np.float32(score))


def calibrate(
    model: ChatModel,
    neurons: NeuronSet,
    prompts: Validation,
    config: TuneConfig,
    judge: Judge,
    state: TuneState,
    base: Look,
    folder: Path,
    known: Mapping[str, float] | None = None,
) -> TuneState:
    """The state with the best strength of its last factors kept, where that beats every epoch.

    `known`: what validation saw of strength 1 already (nt_jax/train/level.py).

    Strength s goes the share s of the way from 1 to the learned factors. Tuning decides which
    neurons to turn and how far against each other; how far in all trades refusals of harm for
    refusals of harmless requests, and is cheap to choose afterwards. Both are taken to rise with
    it, and what falls to fall further, so the strongest within the limits is found by halving. A
    search that was stopped looks again.
    """
    log, ones_LF = History(folder / STRENGTHS, 0), model.lm.ones_LF
    as_learned = [] if config.validate_every and known is None else [1.0]
    strengths = sorted(config.strengths) or as_learned

    def remember(state: TuneState, strength: float, row: Mapping[str, float]) -> TuneState:
        log.write({"epoch": int(state.epoch), "strength": strength, **row})
        if (kept := as_kept(row["score"])) <= float(state.best_score):
            return state
        best_P = at_strength(neurons, state, strength, config)
        return dataclasses.replace(state, best_P=best_P, best_epoch=state.epoch, best_score=kept)

    if known is not None:
        state = remember(state, 1.0, known)
    low, high = 0, len(strengths)
    with progress("strength", len(strengths).bit_length(), "strengths") as advance:
        while low < high:
            middle = (low + high) // 2
            strength = strengths[middle]
            if strength == 1 and known is not None:
                row = known
            else:
                theta_P = at_strength(neurons, state, strength, config)
                scale_LF = scatter(jnp.asarray(theta_P), place(neurons), ones_LF)
                row = scored(validate(model, judge, prompts, scale_LF), base, config)
                state = remember(state, strength, row)
            low, high = (middle + 1, high) if row["score"] >= 0 else (low, middle)
            advance(1)
    return state


def at_strength(
    neurons: NeuronSet, state: TuneState, strength: float, config: TuneConfig
) -> np.ndarray:
    """The last factors at that strength, within their bounds."""
    last = Factors(neurons, np.asarray(host(state.average_P)))
    return last.at_strength(strength, *config.bounds).theta_P


def past_bounds(neurons: NeuronSet, state: TuneState, strength: float, config: TuneConfig) -> int:
    """How many of the last factors the bounds hold back at that strength."""
    (low, high), last = config.bounds, Factors(neurons, np.asarray(host(state.average_P)))
    theta_P = last.at_strength(strength).theta_P
    return int(np.sum((theta_P < low) | (theta_P > high)))


def kept_strength(
    neurons: NeuronSet, state: TuneState, config: TuneConfig, folder: Path
) -> float | None:
    """The strength at which the last factors are the kept ones, to the rounding of float32.

    None where an epoch's own factors were kept. Found by the factors themselves, as two strengths
    can have one score.
    """
    best_P = np.asarray(host(state.best_P))
    for strength in (*(row["strength"] for row in read_strengths(folder)), 1.0):
        theta_P = at_strength(neurons, state, strength, config)
        if np.allclose(theta_P, best_P, rtol=ROUNDING, atol=ROUNDING):
            return strength
    return None


def read_strengths(folder: Path, kept: float | None = None) -> list[dict]:
    """The lines of strengths.jsonl, the first of strength `kept` marked with kept = True."""
    path = folder / STRENGTHS
    with reading(path):
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    mine = next((row for row in rows if row["strength"] == kept), None)
    return [row | {"kept": True} if row is mine else row for row in rows]
