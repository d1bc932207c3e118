"""The run's NeuronTune, plain descent on the same factors, and the algorithm as printed."""

from pathlib import Path
from typing import Any

import numpy as np

from nt_jax.compare.fitting_data import FittingData, validations_in
from nt_jax.compare.method import SECONDS, TRIED, Learned, Method, Setting, UnusableSettingError
from nt_jax.config.method import TuneConfig
from nt_jax.config.paper import AS_PRINTED, paper_section
from nt_jax.config.registry import METHODS
from nt_jax.errors import DivergedError
from nt_jax.eval.judges.judge import open_judge
from nt_jax.eval.metrics.result import TUNED
from nt_jax.eval.under_test import ModelUnderTest, tuned_model
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.run.cells import tune_cell
from nt_jax.run.stages import kept_factors
from nt_jax.train.pools import Pools
from nt_jax.train.tune import tune
from nt_jax.train.tuning_data import TuningData

COUNTS = "counts"  # in the run directory: runs of their own, and no sweep
OF_RUN = ("export.strength",)  # settings that the run's own factors depend on, beside training's
CHOOSING = ("attribute", "select")  # stages that the run's neurons and their slopes come from
PRINTED_STEPS = 36  # of Algorithm 1 as printed, as in the recipe paper/smollm2-135m

# Shares of the way from 1 to the learned factors; 1 is what tuning itself has kept.
STRENGTHS = (1.0, 0.85, 1.2, 0.7, 1.4, 0.55, 1.6, 0.4, 0.3, 1.8, 0.92, 1.1, 0.2, 2.0, 0.1)


def neurontune() -> Method:
    """The run's own factors, at several strengths."""
    return Method(
        "neurontune",
        METHODS["neurontune"].label,
        learned_in_run,
        build_factors,
        strengths(),
        inputs=("train",),
        reads=OF_RUN,
        answered=answered_in_run,
    )


def learned_in_run(data: FittingData, *_: Any) -> Learned:
    """The factors that the run kept."""
    train = data.run.read("train")
    kept = (data.run.read("select"), train, data.config.export.strength)
    factors = kept_factors(data.config.tune, *kept)
    tried = {TRIED: np.asarray(validations_in(train))}
    return factors.arrays() | tried | spent(data, *CHOOSING, "train")


def spent(data: FittingData, *stages: str) -> Learned:
    """How long these stages of the run took, whose work a fit takes over."""
    took = data.run.seconds()
    return {SECONDS: np.asarray(sum(took.get(stage, 0.0) for stage in stages))}


def learned_in_cell(data: FittingData, name: str, neurons: dict[str, int]) -> Learned:
    """The factors that the run keeps with other settings of `neurons`, as a cell of a sweep.

    The cell is a run of its own in RUN/counts/NAME, and takes over what does not depend on them.
    """
    config = data.config.model_copy(
        update={
            "neurons": data.config.neurons.model_copy(update=neurons),
            "run_dir": str(data.run.path / COUNTS / name),
        }
    )
    try:
        factors, _ = tune_cell(config, data.inputs, [data.run.path])
    except DivergedError as error:
        raise UnusableSettingError(str(error)) from error
    tried = validations_in(config.folder / "train")
    return {**factors.arrays(), TRIED: np.asarray(tried)}


def answered_in_run(data: FittingData, setting: Setting) -> tuple[Path, str] | None:
    """Where the run answered the tests with its factors at this strength."""
    return (data.run.read(TUNED), TUNED) if setting["strength"] == 1 else None


def descent() -> Method:
    """The same neurons, factors, losses and outer updates without the inner loop (K = 0)."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        plain = data.config.tune.model_copy(update={"inner_steps": 0})
        return tuned(data, plain, data.neurons, folder) | spent(data, *CHOOSING)

    label = METHODS["descent"].label
    return Method("descent", label, fit, build_factors, strengths(), inputs=("select",))


def paper() -> Method:
    """Algorithm 1 as printed, on the run's data and neurons: whole refusals, inside attacks."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        config = as_printed(data.config.tune)
        pools = data.with_whole_refusals(data.pools_for(config))
        return tuned(data, config, data.neurons, folder, pools) | spent(data, *CHOOSING)

    def build(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
        return built(data, setting, learned, as_printed(data.config.tune).bounds)

    label = METHODS["paper"].label
    return Method("paper", label, fit, build, strengths(), inputs=("select",))


def as_printed(tune: TuneConfig) -> TuneConfig:
    """The paper's values of everything that departs from it; the rest is the run's.

    Its steps hear ten prompts where the run's hear hundreds, so there are PRINTED_STEPS at least.
    """
    printed = {
        key.removeprefix("tune."): value
        for key, value in AS_PRINTED.items()
        if key.startswith("tune.")
    }
    departing = {*paper_section("tune"), "algorithm"}
    same = {key: value for key, value in tune if key not in departing} | printed
    inner = {"algorithm": "paper", "inner_steps": max(1, tune.inner_steps), "patience": 0}
    return TuneConfig.model_validate(same | inner | {"epochs": max(tune.epochs, PRINTED_STEPS)})


def strengths() -> list[Setting]:
    """The settings of every method that learns factors."""
    return [{"strength": strength} for strength in STRENGTHS]


def tuned(
    data: FittingData,
    config: TuneConfig,
    neurons: NeuronSet,
    folder: Path,
    pools: Pools | None = None,
) -> Learned:
    """What Algorithm 1 learns for these neurons under other settings of tuning, or other pools."""
    where = folder / "train"
    where.mkdir(exist_ok=True)
    settings = {"judge": open_judge(data.config.eval.judge), "seed": data.config.seed}
    settings["slopes"] = data.slopes(neurons)
    drawn_from = TuningData(pools or data.pools, data.whole_validation)
    try:
        factors = tune(data.model, neurons, drawn_from, config, folder=where, **settings)
    except DivergedError as error:  # and no other: a damaged folder is not a setting's fault
        raise UnusableSettingError(str(error)) from error
    return {**factors.arrays(), TRIED: np.asarray(validations_in(where))}


def build_factors(data: FittingData, setting: Setting, learned: Learned) -> ModelUnderTest:
    """The run's model with learned factors at the setting's strength, within the run's bounds."""
    return built(data, setting, learned, data.config.tune.bounds)


def built(
    data: FittingData, setting: Setting, learned: Learned, bounds: tuple[float, float]
) -> ModelUnderTest:
    """The run's model with learned factors at the setting's strength, within `bounds`."""
    factors = Factors.of(learned).at_strength(setting.get("strength", 1.0), *bounds)
    return tuned_model(data.model, factors)
