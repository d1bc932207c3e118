"""A grid on the command line: settings with several values, and the cells that they span.

`neurons.safety=500,1000` is an axis of two values. Nothing here imports jax.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nt_jax.config.help import setting_table
from nt_jax.config.load import load_config
from nt_jax.config.registry import PICKS
from nt_jax.config.schema import RunConfig
from nt_jax.errors import ConfigError

SECTIONS = ("neurons", "tune")  # what may differ between cells
COMPARED_BY = ("tune.validation_answers", "tune.max_over_refusal")  # the same for all of them
MOST_CELLS = 400
STRENGTHS = (0.8, 1.0, 1.2)  # of a cell, unless told: more points of it for the plot
Axes = dict[str, list[str]]  # key -> its values as written


@dataclass(frozen=True)
class Cell:
    """One point of a grid: its settings as written, and the config that they give."""

    settings: dict[str, str]
    config: RunConfig

    @property
    def name(self) -> str:
        """What its folder is called, e.g. safety-500_utility-1000."""
        parts = (f"{key.rpartition('.')[2]}-{value}" for key, value in self.settings.items())
        return re.sub(r"[^A-Za-z0-9._+-]+", "-", "_".join(parts))[:80]


def read_axes(words: Sequence[str]) -> tuple[Axes, list[str]]:
    """(the axes, the other settings) of `section.key=value` words.

    Raises a ConfigError for an axis that cells may not differ in, or a setting given twice.
    """
    axes: Axes = {}
    rest: list[str] = []
    keys: list[str] = []
    for word in words:
        key, equals, text = (part.strip() for part in word.partition("="))
        values = _values(text)
        keys.append(key)
        if not equals or len(values) < 2:
            rest.append(word)
            continue
        _check_axis(key)
        if "" in values:
            raise ConfigError(f"'{word}' (command line): a value is missing between two commas")
        axes[key] = values
    for key in axes:
        if keys.count(key) > 1:
            raise ConfigError(f"{key} is given twice (command line): write all values in one list")
    if not axes:
        raise ConfigError(
            "nothing to sweep (command line): give a setting of neurons or tune several values, "
            "e.g. neurons.safety=500,1000 neurons.utility=500,1000"
        )
    return axes, rest


def cells_of(
    recipe: str | None, axes: Mapping[str, Sequence[str]], rest: Sequence[str]
) -> list[Cell]:
    """Every combination of the axes' values, the last axis fastest.

    Raises a ConfigError for the first one that is no config, or that is the same as one before.
    """
    count = 1
    for values in axes.values():
        count *= len(values)
    if count > MOST_CELLS:
        raise ConfigError(
            f"{count:,} cells (command line): a grid may have {MOST_CELLS}. Give fewer values."
        )
    cells: list[Cell] = []
    seen: dict[str, str] = {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        words = [f"{key}={value}" for key, value in settings.items()]
        cell = Cell(settings, with_strengths(load_config(recipe, [*rest, *words])))
        text, said = cell.config.model_dump_json(), " ".join(words)
        if text in seen:
            raise ConfigError(f"{said} is the same cell as {seen[text]} (command line)")
        seen[text] = said
        cells.append(cell)
    if not cells[0].config.tune.validation_answers:
        raise ConfigError(
            "tune.validation_answers = 0: cells are compared on validation answers. Ask for some."
        )
    return cells


def with_strengths(config: RunConfig) -> RunConfig:
    """`config` with STRENGTHS, if nothing is said of them: they are what a dial is turned by."""
    if "strengths" in config.tune.model_fields_set or config.tune.algorithm == "paper":
        return config
    tune = config.tune.model_copy(update={"strengths": STRENGTHS})
    return config.model_copy(update={"tune": tune})


def _check_axis(key: str) -> None:
    section = key.partition(".")[0]
    if key not in setting_table():
        load_config(None, ["model.source=x", f"{key}=0"])  # says what is meant
    if section not in SECTIONS or key in COMPARED_BY:
        raise ConfigError(
            f"{key} cannot differ between cells (command line): it may be a setting of "
            f"{' or '.join(SECTIONS)}, but none of {', '.join(COMPARED_BY)}. One value that "
            "holds a comma stands in quotes"
        )


def _values(text: str) -> list[str]:
    """The parts between commas that stand in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        depth += (sign in "[{") - (sign in "]}") if not quote else 0
        if sign == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def check_choice(choice: str | None) -> None:
    """Raises a ConfigError, before any work, for a word that is no choice."""
    if choice is not None and choice not in PICKS and not (choice.isdecimal() and len(choice) < 9):
        raise ConfigError(
            f"'{choice}' is no choice (--pick): give {', '.join(PICKS)} or a number of the table"
        )
