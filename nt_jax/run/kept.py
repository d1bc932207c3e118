"""The factors that are exported, and what there is to say of how far they go.

A strength is counted in one way everywhere: the share of the way from untouched factors (0) to
those that tuning ended with, as lifted (1), before the bounds of factors. `--strength` of the
number that an export names gives its factors again.
"""

import dataclasses
from pathlib import Path

import numpy as np

from nt_jax.checkpoints.factors import FactorsFile
from nt_jax.config.method import TuneConfig
from nt_jax.errors import ConfigError
from nt_jax.models.neurons import Factors
from nt_jax.run.stages import best_state, kept_factors
from nt_jax.train.strength import kept_strength, past_bounds


@dataclasses.dataclass(frozen=True)
class Kept:
    """Factors, how far they go, and that in words.

    `strength` is None where there is no such number: validation kept the factors of an earlier
    epoch, which are no share of the last ones, or a file does not say.
    """

    factors: Factors
    strength: float | None
    words: str
    cut: str = ""  # in words, where bounds hold factors back, or a file's have none


def kept_at(config: TuneConfig, selected: Path, train: Path, strength: float | None = None) -> Kept:
    """`stages.kept_factors` of the folders of these two stages, with their strength."""
    factors = kept_factors(config, selected, train, strength)
    neurons, state = factors.neurons, best_state(config, selected, train)
    share = kept_strength(neurons, state, config, train) if strength is None else strength
    if share is None:
        which = f"epoch {int(state.best_epoch)}, which validation kept"
        return Kept(factors, None, f"no share of what was learned last: these are of {which}")
    looked = "as kept on validation answers" if config.validation_answers else "as learned"
    how = looked if strength is None else "as asked for"
    cut = _cut(past_bounds(neurons, state, share, config), len(factors.theta_P), config)
    return Kept(factors, share, f"{way(share)}, {how}", cut)


def kept_in_file(path: Path, found: FactorsFile, strength: float | None = None) -> Kept:
    """The factors of a file, at a strength where one is asked for.

    Of a file that does not say its own strength the factors count as the learned ones. Raises a
    ConfigError where the file's is 0, from which no way leads anywhere.
    """
    factors, own = found.factors, found.share
    if strength is None:
        words = "not known" if own is None else f"{way(own)}, as the file has them"
        return Kept(factors, own, words)
    if own == 0 and strength != 0:
        raise ConfigError(
            f"{path} holds factors at strength 0, which are all 1: nothing of what was learned is "
            "in it. Export from the run, or from a file of another strength."
        )
    if strength != own:
        factors = factors.at_strength(strength / (own or 1))
    turned = int(np.sum(factors.theta_P < 0))
    cut = f"{turned} of {len(factors.theta_P)} factors are below 0 (a file has no bounds)"
    return Kept(factors, strength, f"{way(strength)}, as asked for", cut * bool(turned))


def same_factors(one: Factors, other: Factors) -> bool:
    """Whether they are equal, bit for bit."""
    ours, theirs = one.arrays(), other.arrays()
    return all(np.array_equal(array, theirs[name]) for name, array in ours.items())


def way(strength: float) -> str:
    """A strength in words, the same wherever one is named."""
    return f"{number(strength)} of the way from untouched factors (0) to the learned ones (1)"


def number(strength: float) -> str:
    """A strength as it is typed."""
    short = f"{strength:g}"
    return short if float(short) == strength else repr(float(strength))


def _cut(past: int, every: int, config: TuneConfig) -> str:
    """How many factors are held at a bound.

    Said and not refused: tune.strengths has no upper end, so a run may keep any strength, and who
    goes too far sees here that more does nothing more.
    """
    if not past:
        return ""
    low, high = config.bounds
    return f"{past} of {every} factors are cut to the bounds {low:g} and {high:g}"
