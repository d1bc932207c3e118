"""DPO on a run's data: LoRA's adapter, rows, rates and strengths, and the loss of preferences.

Grids hold the best guess first; the search takes as many from the front as it may.
"""

from pathlib import Path

from nt_jax.baselines.dpo import BETA, Preferences, preference_pools
from nt_jax.baselines.lora import Lora
from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.method import Learned, Method, Setting, UnusableSettingError
from nt_jax.compare.methods.adapters import builder, by_adam, learned
from nt_jax.config.registry import METHODS
from nt_jax.console import say
from nt_jax.errors import DataError
from nt_jax.eval.judges.judge import open_judge

# (Adam's rate, beta, share of the way): every rate first, then how hard the reference holds, then
# how far to go. Another share costs a validation, another rate or beta a fit.
GRID = (
    (1e-3, BETA, 1.0), (3e-4, BETA, 1.0), (3e-3, BETA, 1.0), (1e-4, BETA, 1.0), (1e-3, 0.3, 1.0),
    (1e-3, 0.03, 1.0), (1e-3, BETA, 0.7), (3e-3, BETA, 0.7), (3e-4, BETA, 1.4), (3e-4, BETA, 0.7),
    (1e-3, BETA, 1.4), (3e-3, BETA, 0.4), (1e-3, 0.3, 1.4), (1e-3, 0.03, 0.7), (1e-4, BETA, 2.0),
)  # fmt: skip


def dpo() -> Method:
    """Preferences between refusals and the model's own answers, learned by LoRA's adapter."""

    def adapter(data: FittingData) -> Lora:
        return Lora(first=data.config.neurons.first_layer)

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        judge, width = open_judge(data.config.eval.judge), data.config.tune.answer_tokens
        try:
            pools, used, refused = preference_pools(data.model, judge, data.pools, width)
        except DataError as error:
            raise UnusableSettingError(str(error)) from error
        say("dpo", f"{used} harmful prompts; {refused} that the model refuses itself are left out")
        tune = by_adam(data.config.tune, setting["learning_rate"], margin_weight=0.0)
        return learned(data, adapter(data), pools, tune, Preferences(setting["beta"]))

    settings: list[Setting] = [
        {"learning_rate": rate, "beta": beta, "strength": share} for rate, beta, share in GRID
    ]
    build = builder("dpo", adapter)
    return Method("dpo", METHODS["dpo"].label, fit, build, settings, ("learning_rate", "beta"))
