"""SCANS on a run's data: its anchors, the threshold that tells validation prompts apart best.

The grid holds the best guess first; the search takes as many from the front as it may.
"""

import dataclasses
from pathlib import Path

import numpy as np

from nt_jax.baselines.examples import best_threshold
from nt_jax.baselines.scans import (
    ALPHA,
    THRESHOLD,
    Scans,
    ScansFit,
    ScansOptions,
    fit_scans,
    harm_scores,
    published_layers,
)
from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.method import Learned, Method, Setting
from nt_jax.config.registry import METHODS
from nt_jax.eval.under_test import ModelUnderTest

# Of the residual norm; the pushes of all steered layers add up (nt_jax/baselines/scans.py).
SCANS_STRENGTHS = (
    0.05, 0.02, 0.1, 0.01, 0.2, 0.03, 0.3, 0.07, 0.005, 0.04, 0.15, 0.015, 0.06, 0.08, 0.002,
)  # fmt: skip


def scans() -> Method:
    """Steering by query; the threshold is the best at telling validation prompts apart."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        found, asked = fitted(data), data.validation_examples
        sides, batch = (asked.harmful, asked.harmless), data.config.eval.batch_size
        lm = data.model.lm
        held = [harm_scores(lm, lm.ones_LF, found, prompts, batch) for prompts in sides]
        return {**arrays(found), "threshold": np.asarray(best_threshold(*held)[0])}

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        steer = (float(learned["threshold"]), setting["strength"], data.config.eval.batch_size)
        return ModelUnderTest("scans", data.model, intervention=Scans(restored(learned), *steer))

    grid = [{"strength": strength} for strength in SCANS_STRENGTHS]
    units = {"strength": "of the median residual norm"}
    return Method("scans", METHODS["scans"].label, fit, build, grid, units=units)


def scans_published() -> Method:
    """Steering as the release does it with LLaMA-2: its alpha, threshold and layers."""
    name = "scans_published"

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        return arrays(fitted(data, published_layers(data.model.lm.config.layers)))

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        steer = Scans(
            restored(learned), setting["T"], setting["alpha"], data.config.eval.batch_size,
            absolute=True,
        )  # fmt: skip
        return ModelUnderTest(name, data.model, intervention=steer)

    units = {"alpha": "absolute", "T": "mean cosine"}
    only = [{"alpha": ALPHA, "T": THRESHOLD}]
    return Method(name, METHODS[name].label, fit, build, only, units=units)


def fitted(data: FittingData, steer: tuple[int, int] | None = None) -> ScansFit:
    """What the run's anchors say."""
    sure = data.model.tokenizer.encode("Sure", add_special_tokens=False)
    batch_size = data.config.eval.batch_size
    options = ScansOptions(seed=data.config.seed, batch_size=batch_size, steer=steer)
    return fit_scans(data.model.lm, data.model.lm.ones_LF, data.examples, sure, options)


def arrays(fit: ScansFit) -> Learned:
    """A fit as arrays by the names of its fields."""
    return {field.name: np.asarray(getattr(fit, field.name)) for field in dataclasses.fields(fit)}


def restored(learned: Learned) -> ScansFit:
    """The fit whose `arrays` these are."""
    ranges = [tuple(learned[name].tolist()) for name in ("steer", "score", "sure")]
    return ScansFit(learned["direction_LD"], learned["move_LD"], learned["norm_L"], *ranges)
