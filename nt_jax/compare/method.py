"""A method of the comparison: how it learns, how its model is made, which settings it may try."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nt_jax.compare.fitting_data import FittingData
from nt_jax.eval.under_test import ModelUnderTest

Setting = dict[str, Any]
Learned = dict[str, np.ndarray]
# In what a fit learned: the validations that it has chosen from by itself, and seconds: of a fit
# what it takes from the run has cost there, of one that is kept those of the fit as well.
TRIED, SECONDS = "tried", "seconds"


class UnusableSettingError(Exception):
    """A setting under which a method cannot be fitted (it diverges): tried, and never chosen."""


class UnusableMethodError(Exception):
    """A method that cannot be fitted at all here: left out of the tables, which say why."""


def learned_numbers(learned: Learned) -> int:
    """How many numbers a fit has learned: places of neurons are whole, and no numbers to learn."""
    kept = (value for name, value in learned.items() if name not in (TRIED, SECONDS))
    return sum(value.size for value in kept if value.dtype.kind == "f")


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the tables.

    `fit` learns from the data (its folder survives a kill and is its own), `build` makes the
    model under test of what was learned. Settings that agree in `fit_on` share one fit.
    """

    name: str
    label: str
    fit: Callable[[FittingData, Setting, Path], Learned]
    build: Callable[[FittingData, Setting, Learned], ModelUnderTest]
    settings: Sequence[Setting] = ({},)  # the best guess first
    fit_on: tuple[str, ...] = ()
    follows: str | None = None  # a method whose chosen setting these settings are added to
    inputs: tuple[str, ...] = ()  # stages of the run that `fit` reads
    reads: tuple[str, ...] = ()  # settings that it reads, beside those that all methods read
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of settings, in words
    # Where the run has answered the tests with exactly this setting, and under which name.
    answered: Callable[[FittingData, Setting], tuple[Path, str] | None] = lambda *_: None

    def words(self, setting: Setting) -> str:
        """A setting with its units, for the screen and the tables."""
        shown = {k: "chosen by itself" if v is None else str(v) for k, v in setting.items()}
        unit = {name: f" ({text})" for name, text in self.units.items()}
        return ", ".join(f"{name} {value}{unit.get(name, '')}" for name, value in shown.items())
