"""Where each cell of a grid lies, and at which neighbour's factors it begins."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from nt_jax.config.grid import Cell
from nt_jax.config.schema import RunConfig
from nt_jax.errors import ConfigError
from nt_jax.finished import CELLS
from nt_jax.run.pipeline import Start, table_and_keys
from nt_jax.run.preflight import Inputs
from nt_jax.rundir import RunDirectory

SHARED = ("answers", "attribute")  # stages that all cells have in common


@dataclasses.dataclass(frozen=True)
class Placed:
    """A cell, the config of its run directory, the key of its factors."""

    cell: Cell
    config: RunConfig
    key: str
    start: Start | None = None  # the neighbour that tuning begins at

    @property
    def folder(self) -> Path:
        """Its run directory."""
        return self.config.folder

    @property
    def done(self) -> bool:
        """Whether its factors are there."""
        return RunDirectory(self.folder).finished("train", self.key)


def with_folder(config: RunConfig, folder: Path) -> RunConfig:
    """The config with another run directory."""
    return config.model_copy(update={"run_dir": str(folder)})


def place(
    cells: Sequence[Cell], root: Path, inputs: Inputs, warm: bool = False
) -> dict[str, Placed]:
    """The cells by the names of their folders, which hold the keys of their factors.

    Raises a ConfigError for an axis that attribution depends on: it would be repeated.
    """
    found: dict[str, Placed] = {}
    shared: tuple[str, ...] = ()
    for n, cell in enumerate(cells):
        start = None
        if warm and n:
            nearest = neighbour(cells, n)
            near = next(placed for placed in found.values() if placed.cell is nearest)
            start, cell = Start(near.folder, near.key), shortened(cell)
        directory = RunDirectory(cell.config.folder)
        _, keys = table_and_keys(cell.config, directory, inputs, start)
        mine = tuple(keys[name] for name in SHARED)
        if shared and mine != shared:
            raise ConfigError(
                f"{' '.join(cell.settings)}: attribution, or the model's own answers, depend on "
                "one of these axes (command line), and a sweep has one attribution for all cells. "
                "Sweep the others, once for each value of that one."
            )
        shared = mine
        name = f"{cell.name}-{keys['train'][:6]}"
        config = with_folder(cell.config, root / CELLS / name)
        kept = config.export.model_copy(update={"strength": None})  # a point names its own
        config = config.model_copy(update={"export": kept})
        found[name] = Placed(cells[n], config, keys["train"], start)
    return found


def beside(one: Placed, root: Path) -> list[Path]:
    """The runs whose finished stages a cell takes over: the sweep's, cells of other grids."""
    return [root, *sorted((root / CELLS).glob(f"*-{one.key[:6]}"))]


def neighbour(cells: Sequence[Cell], n: int) -> Cell:
    """The nearest cell before the n-th one: it differs in one axis, as late a one as can be."""

    def far(other: Cell) -> list[bool]:
        mine = cells[n].settings
        return [mine[key] != other.settings[key] for key in mine]

    # The latest of those before, as cells are in the order of their values.
    return min(reversed(cells[:n]), key=lambda other: (sum(far(other)), far(other)))


def shortened(cell: Cell) -> Cell:
    """The cell with half its epochs, as a start at a neighbour's factors needs fewer."""
    half = -(-cell.config.tune.epochs // 2)
    tune = cell.config.tune.model_copy(update={"epochs": half})
    return dataclasses.replace(cell, config=cell.config.model_copy(update={"tune": tune}))
