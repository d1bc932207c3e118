"""Test sets as entries of a table: test_sets.yaml beside this file, and the user's own.

An entry says where rows come from and what they measure; eval/prompts.py turns it into prompts. To
add a set to the package, add an entry there.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from nt_jax.config.base import DatasetConfig, Frozen
from nt_jax.config.registry import METRICS
from nt_jax.config.yaml_lines import BadYamlError, read_yaml
from nt_jax.limits import RECIPE_BYTES, read_within

BUILT_IN = Path(__file__).parent / "test_sets.yaml"


class TestSet(Frozen):
    """One test set."""

    __test__ = False  # pytest would take the name for a test class

    source: str = Field(min_length=1)
    """demo, a JSON / JSONL / CSV / parquet file, a directory or a hub id"""
    kind: Literal["harmful", "harmless", "choice"]
    """harmful = requests to refuse; harmless = to answer; choice = questions with lettered
    choices"""
    split: str | None = None
    """split to read where the source has splits; null = all rows"""
    columns: dict[str, str] = Field(default={})
    """field: column, where the layout is none of the known ones, e.g. {request: my_column}"""
    prompt: Literal["request", "attacked"] = "request"
    """what the model is shown: the bare request, or the request inside the attack that the row
    itself holds"""
    templates: DatasetConfig | None = None
    """attack templates to put around the requests, one each in turn"""
    forged: Literal["text", "keep"] = "text"
    """spellings of the model's special tokens inside its texts: text = they are text; keep = they
    are those tokens, as an attacker with raw access would send them"""
    prefill: str = ""
    """words that the model finds at the start of its answer and goes on from, e.g. "Sure, here is";
    what is judged is what follows"""
    distinct: bool = False
    """keep the first of rows with one request"""
    seed: int | None = Field(default=None, ge=0)
    """order rows by a hash of this number and their request; null = as they come"""
    hold_out: int = Field(default=0, ge=0)
    """leave the first so many rows of that order to others"""
    limit: int | None = Field(default=None, ge=1)
    """then take at most this many"""
    metrics: tuple[str, ...] = ()
    """what to measure of answers besides refusal and text, which always are; [] = all that the kind
    allows"""
    shots: int = Field(default=0, ge=0)
    """worked examples before a choice question"""
    shots_from: str | None = None
    """name of the test set that holds the worked examples"""
    label: str = ""
    """its name in words, on screen and in tables"""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        allowed = metrics_of(self.kind)
        wrong = [name for name in self.metrics if name not in allowed]
        if wrong:
            listed = ", ".join(allowed)
            raise ValueError(f"metrics of a {self.kind} set are {listed}, not {wrong[0]}")
        if self.prompt == "attacked" and self.templates:
            raise ValueError("has prompt: attacked and templates: choose one")
        if self.prefill and self.kind == "choice":
            raise ValueError("has a prefill, but answers to choice questions are read whole")
        if self.hold_out and self.seed is None:
            raise ValueError("has hold_out but no seed, which decides whom it holds out")
        if self.shots and not self.shots_from:
            raise ValueError("has shots but no shots_from, which says where they come from")
        return self

    def measures(self, metric: str) -> bool:
        """Whether this set is for that metric."""
        return metric in (self.metrics or metrics_of(self.kind))


def metrics_of(kind: str) -> list[str]:
    """The metrics that a test set of this kind may ask for."""
    return [name for name, line in METRICS.items() if kind in line.kinds]


@functools.cache
def built_in_sets() -> dict[str, TestSet]:
    """Name -> entry of the sets that ship with the package."""
    raw = read_yaml(BUILT_IN.read_text(encoding="utf-8")).value
    return TypeAdapter(dict[str, TestSet]).validate_python(raw)


class Labels(dict[str, str]):
    """Test set -> its name in words; a set without one goes by its own name."""

    def __missing__(self, name: str) -> str:
        return name


def labels_of(extra: Mapping[str, TestSet]) -> Labels:
    """The labels of our own test sets and of the user's."""
    known = built_in_sets() | dict(extra)
    return Labels({name: entry.label for name, entry in known.items() if entry.label})


def read_sets(path: str) -> Any:
    """The entries in a user's YAML file, not yet checked; a ValueError says why there are none."""
    try:
        located = read_yaml(read_within(Path(path).expanduser(), RECIPE_BYTES).decode("utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot be read: {reason}") from error
    except BadYamlError as error:
        raise ValueError(f"is not valid YAML (line {error.line}): {error}") from error
    if located.duplicates:
        key, line = located.duplicates[0]
        raise ValueError(f"has '{'.'.join(map(str, key))}' twice (line {line})")
    if not isinstance(located.value, dict):
        raise ValueError("must hold 'NAME: {source: ..., kind: ...}' lines")
    return located.value
