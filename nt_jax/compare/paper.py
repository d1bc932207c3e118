"""The figures that the NeuronTune paper prints, for the models that it measured."""

import functools
import json
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parent / "paper.json"
PAIRS = {"main": ("safeedit", "alpaca"), "6": ("advbench", "truthfulqa")}


@functools.cache
def figures() -> dict[str, Any]:
    """Everything transcribed: tables 1 to 7 and figure 3."""
    return json.loads(FIGURES.read_text(encoding="utf-8"))


def paper_model(source: str, layers: int, width: int) -> str | None:
    """The paper's name of the model at `source`, by its last path part and its size; or None."""
    last = source.rstrip("/").rpartition("/")[2].lower()
    for name, about in figures()["models"].items():
        if last in about["names"] and (layers, width) == (about["layers"], about["width"]):
            return name
    return None


def paper_rows(number: str, model: str | None) -> list[dict[str, Any]]:
    """The rows of one of the paper's tables that are about `model`; [] where none is."""
    if model is None:
        return []
    known = figures()
    key = next(key for key in known if key.startswith(f"table{number}_"))
    only = known["tables_1_3_4_6_7_are_of"]
    return [row for row in known[key] if row.get("model", only) == model]


def paper_row(number: str, model: str | None, **where: Any) -> dict[str, Any]:
    """The one row of a table in which every field of `where` has its value; {} if there is none."""
    for row in paper_rows(number, model):
        if all(row.get(name) == value for name, value in where.items()):
            return row
    return {}
