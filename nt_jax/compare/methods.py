"""Which methods a comparison needs: those that were asked for, and what each table is made of."""

from collections.abc import Sequence

from nt_jax.compare import ablations as variants
from nt_jax.compare import baselines as rivals
from nt_jax.compare import neurontune as ours
from nt_jax.compare.names import METHODS
from nt_jax.compare.search import Method
from nt_jax.config.schema import CompareConfig

MAKERS = {
    "neurontune": ours.neurontune,
    "dinm": rivals.dinm,
    "scans": rivals.scans,
    "cavgan": rivals.cavgan,
    "system_prompt": ours.system_prompt,
    "descent": ours.descent,
    "lora": rivals.lora,
}
FRACTIONS = (100, 50, 20, 10, 5)  # percent, Table 1


def needed(names: Sequence[str], tables: Sequence[str], config: CompareConfig) -> list[Method]:
    """The methods behind `tables` in the order of METHODS, then the variants of tables 1, 4, 7.

    Raises nothing: `names` and `tables` are known to exist (compare.names).
    """
    wanted = set(names)
    wanted |= {"dinm"} if "1" in tables else set()
    wanted |= {"neurontune"} if {"4", "7"} & set(tables) else set()
    found = [MAKERS[name]() for name in METHODS if name in wanted]
    if "1" in tables:
        found += dinm_fractions()
    if "4" in tables:
        found += ablations(config)
    if "7" in tables:
        found += neuron_grid(config)
    return found


def dinm_fractions() -> list[Method]:
    """The rows of Table 1."""
    return [rivals.dinm(f"dinm_{percent}", percent / 100) for percent in FRACTIONS]


def ablations(config: CompareConfig) -> list[Method]:
    """The rows of Table 4 below the first."""
    draws = [variants.without_pinpointing(seed) for seed in range(config.random_seeds)]
    return [variants.without_selection(), *draws, variants.without_adjustment()]


def neuron_grid(config: CompareConfig) -> list[Method]:
    """The rows of Table 7."""
    return [
        variants.counts(safety, utility)
        for utility in config.utility_counts
        for safety in config.safety_counts
    ]
