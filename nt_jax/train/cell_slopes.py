"""Slopes of the rows of each cell: what neurons are chosen by, and what a step solves over.

M rows, P neurons. How one row's slopes are found: nt_jax/train/slopes.py.
"""

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nt_jax import cache
from nt_jax.atomic import write_atomic
from nt_jax.config.method import TuneConfig
from nt_jax.data.packing import Row
from nt_jax.generate.chat import ChatModel
from nt_jax.seal import reading
from nt_jax.train.cells import (
    ATTACKED_HARMFUL,
    ATTACKED_HARMLESS,
    BEGINNINGS,
    CELLS,
    HARMFUL,
    HARMLESS,
    OWN,
    Rows,
)
from nt_jax.train.objectives import DECISION_TOKENS
from nt_jax.train.slopes import DECISION, DRIFT, LIKELIHOOD, Measured, answer_rows, measured_slopes
from nt_jax.train.tuned_layers import TunedLayers

FILE = "slopes.npz"


@dataclasses.dataclass(frozen=True)
class CellSlopes:
    """Slopes of the decision in each cell, and of the own answers: float32 [rows, P] by name.

    Those of the own answers are of their mean likelihood, then of their drift (`drift_of`).
    `values`: the decision of each row of a cell, in nats. An epoch has BEGINNINGS as
    well: how near good answers are to being begun, as what that has gained since the untuned model
    (`measured_cells` in nt_jax/train/outer.py).
    """

    cells: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def decided(self) -> tuple[str, ...]:
        """Which cells have rows with a decision, in the order of their rows."""
        return tuple(n for n in (*CELLS, BEGINNINGS) if n in self.values and len(self.values[n]))

    @property
    def difference_P(self) -> Float[np.ndarray, " P"]:
        """How much nearer a factor brings refusals of harmful than of harmless requests.

        In nats, of bare requests. What tells these apart tells attacked ones apart, too, and better
        than the difference of attacked ones does, in which the attacks are much.
        """
        return self.cells[HARMFUL].mean(axis=0) - self.cells[HARMLESS].mean(axis=0)

    @property
    def unwanted_MP(self) -> Float[np.ndarray, "M P"]:
        """What the factors should not move: everything harmless, and differences between harms."""
        harmful = [_centred(self.cells[name]) for name in (ATTACKED_HARMFUL, HARMFUL)]
        harmless = [self.cells[name] for name in (OWN, ATTACKED_HARMLESS, HARMLESS)]
        return np.concatenate([*harmless, *harmful])

    def of(self, columns_P: np.ndarray) -> "CellSlopes":
        """Those of some of the neurons."""
        cells = {name: slope[:, columns_P] for name, slope in self.cells.items()}
        return CellSlopes(cells, self.values)

    def save(self, path: Path) -> None:
        """Write them as one file, whole or not at all."""
        content = io.BytesIO()
        values = {_value(name): each for name, each in self.values.items()}
        np.savez(content, **self.cells, **values)  # type: ignore[arg-type]
        write_atomic(path, content.getvalue())

    @classmethod
    def load(cls, path: Path, names: Sequence[str] = (*CELLS, OWN)) -> "CellSlopes":
        """What `save` wrote of the cells with these names."""
        with reading(path), path.open("rb") as file, np.load(file) as arrays:
            cells = {name: arrays[name] for name in names}
            return cls(cells, {name: arrays[_value(name)] for name in names if name != OWN})


def _value(cell: str) -> str:
    return f"decision_{cell}"


def _centred(slope_MP: np.ndarray) -> np.ndarray:
    return slope_MP - slope_MP.mean(axis=0) if len(slope_MP) else slope_MP


def cell_slopes(
    model: ChatModel, tuned: TunedLayers, cells: Mapping[str, Rows], config: TuneConfig
) -> CellSlopes:
    """The slopes of these rows in the neurons of `tuned`, kept between runs (nt_jax/cache.py)."""
    places = [np.asarray(leaf).tolist() for leaf in (tuned.neurons.layer_P, tuned.neurons.index_P)]
    about = {"first": tuned.first, "neurons": places}

    def measure(rows: Sequence[Row], what: str) -> Measured:
        return measured_slopes(tuned, tuned.ones_P, rows, what)

    return kept_cells(model, cells, config, about, measure)


def kept_cells(
    model: ChatModel,
    cells: Mapping[str, Rows],
    config: TuneConfig,
    about: Mapping[str, Any],
    measure: Callable[[Sequence[Row], str], Measured],
) -> CellSlopes:
    """What `measure` (of rows, and of what) says, in whatever `about` names.

    The decision of the rows in CELLS, likelihood and drift of the own answers.
    """
    rows = {name: answer_rows(model, each, config) for name, each in cells.items()}
    every = [(list(row.prompt), list(row.answer)) for each in rows.values() for row in each]
    said = {"tokens": DECISION_TOKENS, "model": model.identity}
    made_from = {"slopes of": every, **about, **said}
    asked = {name: rows[name] for name in CELLS if name in rows}

    def make() -> dict[str, np.ndarray]:
        drift_MP = measure(rows[OWN], DRIFT)[1]
        likelihood_MP = measure(rows[OWN], LIKELIHOOD)[1]
        own_MP = np.concatenate([likelihood_MP, drift_MP])
        value_M, slope_MP = np.zeros(0, np.float32), own_MP[:0]
        if decided := [row for each in asked.values() for row in each]:
            value_M, slope_MP = measure(decided, DECISION)
        return {"slope_MP": slope_MP, "value_M": value_M, "own_MP": own_MP}

    slope_MP, value_M, own_MP = cache.kept(made_from, make).values()
    return CellSlopes(by_cell(asked, slope_MP) | {OWN: own_MP}, by_cell(asked, value_M))


def by_cell(rows: Mapping[str, Sequence[Row]], every_M: np.ndarray) -> dict[str, np.ndarray]:
    """What was found of all `rows`, one cell after the other, by the names of the cells."""
    ends = np.cumsum([len(each) for each in rows.values()])
    return dict(zip(rows, np.split(every_M, ends)[:-1], strict=True))
