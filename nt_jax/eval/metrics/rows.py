"""All metrics together: the rows of a result, and how each is shown. Imports no jax."""

from typing import Any

from nt_jax.config.registry import METRICS, load
from nt_jax.eval.metrics.result import Column, Measurements, ResultRow

# Their rows stand together by test set and model, as a reader compares them.
BY_SET = ("refusal", "text")


def metrics() -> dict[str, Any]:
    """The modules of nt_jax/eval/metrics, each by its first name in the registry."""
    names: dict[str, str] = {}
    for name, line in METRICS.items():
        names.setdefault(line.module, name)
    return {name: load(module) for module, name in names.items()}


def columns() -> dict[str, Column]:
    """How the numbers of each metric are shown."""
    tables = [metric.COLUMNS for metric in metrics().values()]
    return {name: column for table in tables for name, column in table.items()}


def all_rows(measured: Measurements) -> list[ResultRow]:
    """The rows of every metric, those BY_SET first."""
    by_set, others = [], []
    for name, metric in metrics().items():
        (by_set if name in BY_SET else others).extend(metric.rows(measured))
    order = list(measured.groups)
    by_set.sort(key=lambda row: order.index((row.dataset, row.model)))
    return by_set + others
