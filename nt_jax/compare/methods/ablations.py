"""NeuronTune without one of its parts (Table 4), and with other numbers of neurons (Table 7)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nt_jax.attribution.attack_selection import selects
from nt_jax.attribution.select import check_counts, random_neurons, select
from nt_jax.attribution.store import load_scores
from nt_jax.compare.fitting_data import FittingData
from nt_jax.compare.method import Learned, Method, Setting, UnusableSettingError
from nt_jax.compare.methods.neurontune import (
    CHOOSING,
    OF_RUN,
    answered_in_run,
    build_factors,
    learned_in_cell,
    learned_in_run,
    spent,
    strengths,
    tuned,
)
from nt_jax.config.evaluation import CompareConfig
from nt_jax.config.method import TuneConfig
from nt_jax.config.registry import CONTRASTIVE, METHODS
from nt_jax.data.batching import draw
from nt_jax.data.records import AttackTemplate
from nt_jax.models.config import ModelConfig
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.run.attribute import attribute_all
from nt_jax.train.theta import initial_theta

WITHOUT_SELECTION, WITHOUT_TUNING, RANDOM = "all_attacks", "first_factors", "random_neurons"
FIRST_FACTORS = 1.2, 0.9  # of safety and of utility neurons, without any tuning


def without_selection() -> Method:
    """Attribution on as many training attacks, drawn without a look at their types."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        run, train = data.config, data.records["train"]
        own = run.attribution.score == CONTRASTIVE  # compares prompts under any attack
        if own or not selects(train.templates, run.attribution):
            raise UnusableSettingError("the run itself goes without attack selection")
        any_attack = run.attribution.model_copy(update={"attack_selection": False})
        where = folder / "attribute"
        where.mkdir(exist_ok=True)
        drawn = dataclasses.replace(train, templates=drawn_templates(train.templates, run.seed))
        answers = data.run.read("answers")
        attribute_all(data.model, drawn, answers, any_attack, run.data, where)
        return tuned(data, run.tune, chosen_neurons(data, where), folder)

    label, reads = "w/o Attack Selection", ("attribute", "select")
    return Method(WITHOUT_SELECTION, label, fit, build_factors, strengths(), inputs=reads)


def drawn_templates(templates: Sequence[AttackTemplate], seed: int) -> list[AttackTemplate]:
    """All templates in the order of a draw, their types forgotten: the first ones are scored."""
    order = draw(seed, "attacks", 0, len(templates), len(templates))
    return [dataclasses.replace(templates[row], types=()) for row in order]


def without_pinpointing(seed: int) -> Method:
    """As many neurons drawn at random."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        return tuned_at_random(data, seed, folder)

    label = f"w/o Neuron Pinpointing, draw {seed + 1}"
    return Method(f"{RANDOM}_{seed}", label, fit, build_factors, strengths(), inputs=("select",))


def random() -> Method:
    """The same with the draw of the run's seed: a row of the tables of methods."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        return tuned_at_random(data, data.config.seed, folder)

    label = METHODS["random"].label
    return Method("random", label, fit, build_factors, strengths(), inputs=("select",))


def tuned_at_random(data: FittingData, seed: int, folder: Path) -> Learned:
    """What the run's tuning learns for neurons of that draw.

    No score has chosen them, but the contrastive one has measured their slopes.
    """
    before = ("attribute",) if data.config.attribution.score == CONTRASTIVE else ()
    return tuned(data, data.config.tune, drawn(data, seed), folder) | spent(data, *before)


def drawn(data: FittingData, seed: int) -> NeuronSet:
    """As many neurons as the run has, at random among those that it may choose from."""
    model, counts = data.model.checkpoint.config, data.config.neurons.counts
    return random_neurons(model.layers, model.neurons, seed=seed, **counts)


def without_adjustment() -> Method:
    """The first factors, never tuned; how far to go is searched as for the others."""

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        theta_P = initial_theta(data.neurons, *first_factors(data.config.tune))
        return Factors(data.neurons, np.asarray(theta_P)).arrays() | spent(data, *CHOOSING)

    label, reads = "w/o Adaptive Adjustment", ("select",)
    return Method(WITHOUT_TUNING, label, fit, build_factors, strengths(), inputs=reads)


def first_factors(tune: TuneConfig) -> tuple[float, float]:
    """(of safety, of utility neurons): the recipe's own, or that of FIRST_FACTORS for a 1.

    A factor of 1 changes nothing, and the paper's algorithm begins above and below it.
    """
    own = (tune.init_safety, tune.init_utility)
    safety, utility = (f if f != 1 else ours for f, ours in zip(own, FIRST_FACTORS, strict=True))
    return safety, utility


def counts(safety: int, utility: int) -> Method:
    """The whole method with so many neurons; the run's own numbers are the run itself."""

    def is_run(data: FittingData) -> bool:
        own, turned = data.config.neurons, data.config.export.strength
        # Cells are at the strength that their tuning keeps; the run may be told another.
        return turned is None and (safety, utility) == (own.safety, own.utility)

    def fit(data: FittingData, setting: Setting, folder: Path) -> Learned:
        if is_run(data):
            return learned_in_run(data)
        wanted = {"safety": safety, "utility": utility}
        return learned_in_cell(data, f"{safety}-{utility}", wanted)

    def answered(data: FittingData, setting: Setting) -> tuple[Path, str] | None:
        return answered_in_run(data, setting) if is_run(data) else None

    name, label, alone = f"neurons_{safety}_{utility}", f"{safety}/{utility}", strengths()[:1]
    reads = ("attribute", "train")
    return Method(
        name, label, fit, build_factors, alone, inputs=reads, reads=OF_RUN, answered=answered
    )


def chosen_neurons(data: FittingData, scores: Path) -> NeuronSet:
    """As many as the run has, the best by the scores in a folder."""
    found = load_scores(scores)
    return select(found["safety"], found["utility"], **data.config.neurons.counts)[0]


def check_grid(grid: CompareConfig, model: ModelConfig, first_layer: int) -> None:
    """Raises a ConfigError, before any work, where table 7 asks for more neurons than there are."""
    most = max(grid.safety_counts), max(grid.utility_counts)
    check_counts(*most, (model.layers, model.neurons), first_layer)
