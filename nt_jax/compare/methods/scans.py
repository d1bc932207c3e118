"""SCANS on a run's data: its anchors, the threshold that tells validation prompts apart best.

The grid holds the published setting first; the search takes as many from the front as it may.
"""

import dataclasses
from pathlib import Path

import numpy as np

from nt_jax.baselines.examples import best_threshold
from nt_jax.baselines.scans import Scans, ScansFit, ScansOptions, fit_scans, harm_scores
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
        model, batch = data.model, data.config.eval.batch_size
        sure = model.tokenizer.encode("Sure", add_special_tokens=False)
        options = ScansOptions(seed=data.config.seed, batch_size=batch)
        plain, asked = model.lm.ones_LF, data.validation_examples
        found = fit_scans(model.lm, plain, data.examples, sure, options)
        sides = (asked.harmful, asked.harmless)
        held = [harm_scores(model.lm, plain, found, prompts, batch) for prompts in sides]
        fields = {f.name: np.asarray(getattr(found, f.name)) for f in dataclasses.fields(found)}
        return {**fields, "threshold": np.asarray(best_threshold(*held)[0])}

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        ranges = [tuple(learned[name].tolist()) for name in ("steer", "score", "sure")]
        found = ScansFit(learned["direction_LD"], learned["move_LD"], learned["norm_L"], *ranges)
        threshold, batch = float(learned["threshold"]), data.config.eval.batch_size
        steer = Scans(found, threshold, setting["strength"], batch)
        return ModelUnderTest("scans", data.model, intervention=steer)

    grid = [{"strength": strength} for strength in SCANS_STRENGTHS]
    return Method("scans", METHODS["scans"].label, fit, build, grid)
