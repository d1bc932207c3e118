"""The slopes of the four cells and of the own answers, and what is made of them.

To first order factors are a linear classifier: a refusal of prompt x gains sum_i delta_i s_i(x),
s_i its slope in factor i. The slopes of the four cells therefore say which neurons tell harmful
from harmless requests (nt_jax/attribution/contrastive.py), which change of the factors raises
refusals of harm at the least cost (nt_jax/train/preconditioner.py), and how far it has to go.
P neurons, M rows.
"""

import dataclasses
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from nt_jax.atomic import write_atomic
from nt_jax.errors import RunError
from nt_jax.train.cells import (
    ATTACKED_HARMFUL,
    ATTACKED_HARMLESS,
    CELLS,
    HARMFUL,
    HARMLESS,
    OWN,
)

FILE = "slopes.npz"
DRIFT_WEIGHT = 3.0  # of a slope of drift beside one of a refusal, in what should not move


@dataclasses.dataclass(frozen=True)
class CellSlopes:
    """Slopes of refusals in each cell, of the own answers' drift: float32 [rows, P] by name."""

    cells: Mapping[str, np.ndarray]

    @property
    def difference_P(self) -> Float[np.ndarray, " P"]:
        """How much likelier a factor makes refusals of harmful than of harmless requests.

        In nats per token, the mean of bare and attacked ones (bare alone where a source has no
        attacked harmless prompts).
        """
        pairs = ((HARMFUL, HARMLESS), (ATTACKED_HARMFUL, ATTACKED_HARMLESS))
        both = [[self.cells[name] for name in pair] for pair in pairs]
        parts = [one.mean(axis=0) - two.mean(axis=0) for one, two in both if len(one) and len(two)]
        return np.mean(parts, axis=0)

    def harmful_P(self, direct: float) -> Float[np.ndarray, " P"]:
        """How much likelier a factor makes refusals of harmful requests, `direct` of them bare."""
        parts = {ATTACKED_HARMFUL: 1 - direct, HARMFUL: direct}
        return sum(
            (share * self.cells[name].mean(axis=0) for name, share in parts.items()),
            np.zeros_like(self.difference_P),
        )

    @property
    def unwanted_MP(self) -> Float[np.ndarray, "M P"]:
        """What the factors should not move: everything harmless, and differences between harms."""
        harmful = [_centred(self.cells[name]) for name in (ATTACKED_HARMFUL, HARMFUL)]
        harmless = [self.cells[name] for name in (ATTACKED_HARMLESS, HARMLESS)]
        return np.concatenate([DRIFT_WEIGHT * self.cells[OWN], *harmless, *harmful])

    def of(self, columns_P: np.ndarray) -> "CellSlopes":
        """Those of some of the neurons."""
        return CellSlopes({name: slope[:, columns_P] for name, slope in self.cells.items()})

    def save(self, path: Path) -> None:
        """Write them as one file, whole or not at all."""
        content = io.BytesIO()
        np.savez(content, **self.cells)  # type: ignore[arg-type]
        write_atomic(path, content.getvalue())

    @classmethod
    def load(cls, path: Path) -> "CellSlopes":
        """What `save` wrote."""
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return cls({name: arrays[name] for name in (*CELLS, OWN)})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(f"{path} is damaged ({error}). Delete its folder, repeat.") from error


def _centred(slope_MP: np.ndarray) -> np.ndarray:
    return slope_MP - slope_MP.mean(axis=0) if len(slope_MP) else slope_MP
