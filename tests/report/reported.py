"""The made-up run whose report the tests look at."""

import numpy as np

from nt_jax.eval.metrics.result import Measurements
from nt_jax.eval.metrics.rows import all_rows
from nt_jax.report import run as report
from tests.made_up import explained, made_up_answers

ANSWERS = explained(made_up_answers())
ROWS = all_rows(Measurements(ANSWERS, judges={"phrases-v2": "ab12" * 16}))
SETTINGS = {"name": "made_up", "model": {"source": "a/model"}, "eval": {"max_new_tokens": 48}}
TIMINGS = {"attribute": 58.2, "tune": 304.0}
MACHINE = {"python": "3.11.7", "platform": "Linux", "versions": {"nt_jax": "0.1.0"}}
STAGES = {"tune": {"peak_memory_bytes": 3 * 2**30, "resumed": True}}
TUNING = report.Tuning(
    neurons={
        "layer": np.array([0, 1, 1, 2]),
        "index": np.array([5, 6, 7, 8]),
        "set": np.array(["safety", "safety", "utility", "utility"]),
        "score": np.array([0.5, 0.4, 0.3, -0.2]),
        "factor": np.array([1.2, 1.1, 0.9, 0.8]),
        "num_layers": 4,
    },
    history=[
        {"epoch": 0, "refusal_attack": 0.1, "refusal_harmless": 0.0},
        {"epoch": 1, "safety_loss": 3.0, "utility_loss": 2.0},
        {"epoch": 2, "safety_loss": 1.0, "utility_loss": 2.1, "best": True},
    ],
    strengths=[
        {"strength": 0.7, "refusal_attack": 0.9, "refusal_harmless": 0.2, "perplexity_ratio": 1.3},
        {"strength": 0.4, "refusal_attack": 0.5, "refusal_harmless": 0.0, "kept": True},
    ],
    lifts=[
        {"lift": 0.6, "lift_attacked": 0.3, "refusal_attack": 0.9, "perplexity_ratio": 1.3},
        {"lift": 0.0, "lift_attacked": 0.9, "lift_nested": -1.2, "refusal_attack": 0.3}
        | {"kept": True, "score": -1.02},
    ],
)
OTHER = "someone-s-other-model"
