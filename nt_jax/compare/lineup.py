"""Which methods a comparison needs: those that were asked for, and what each table is made of."""

import itertools

from nt_jax.compare.method import Method
from nt_jax.compare.methods import ablations
from nt_jax.compare.methods.dinm import dinm
from nt_jax.config.evaluation import CompareConfig
from nt_jax.config.registry import METHODS, load

FRACTIONS = (100, 50, 20, 10, 5)  # percent, Table 1


def needed(config: CompareConfig) -> list[Method]:
    """The methods of the settings and behind their tables, then the variants of tables 1, 4, 7."""
    wanted, tables = set(config.methods), config.tables
    wanted |= {"dinm"} if "1" in tables else set()
    wanted |= {"neurontune"} if {"4", "7"} & set(tables) else set()
    found = [load(METHODS[name].maker)() for name in METHODS if name in wanted]
    if "1" in tables:
        found += [dinm(f"dinm_{percent}", percent / 100) for percent in FRACTIONS]
    if "4" in tables:
        draws = [ablations.without_pinpointing(seed) for seed in range(config.random_seeds)]
        found += [ablations.without_selection(), *draws, ablations.without_adjustment()]
    if "7" in tables:
        grid = itertools.product(config.utility_counts, config.safety_counts)
        found += [ablations.counts(safety, utility) for utility, safety in grid]
    return found
