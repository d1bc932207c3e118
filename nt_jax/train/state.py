"""What tuning must not lose: Orbax checkpoints of its state, and metrics.jsonl beside them."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax import Array
from orbax.checkpoint import v1 as ocp

from nt_jax.atomic import write_atomic
from nt_jax.mesh import host
from nt_jax.processes import first, from_first
from nt_jax.seal import damaged, reading
from nt_jax.track import track

KEPT = 2  # the newest, and one before it in case the newest is damaged


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TuneState:
    """Everything an interrupted run needs to go on as if nothing had happened.

    Batches are a function of (seed, epoch), so the epoch is also the data cursor.
    """

    theta_P: Array
    average_P: Array  # running mean of theta_P: what is validated and kept
    optimiser: optax.OptState
    epoch: int | Array  # epochs done
    best_P: Array
    best_epoch: int | Array
    best_score: float | Array  # of validation, see validate.score; -inf before the first
    waited: int | Array  # validations since the best


def save(folder: Path, state: TuneState) -> None:
    """Write `state` as folder/EPOCH (Orbax writes it whole or not at all); drop older ones.

    Of several processes all save, into the folder of process 0: Orbax has them meet on the way.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    target = from_first(lambda: str((folder / f"{int(state.epoch):06d}").resolve()))
    ocp.save(target, _as_dict(jax.tree.map(np.asarray, host(state))), overwrite=True)
    if first():
        for old in _saved(folder)[:-KEPT]:
            shutil.rmtree(old)


def restore(folder: Path, like: TuneState) -> TuneState | None:
    """The newest state in `folder` with the structure of `like`, or None if there is none."""
    saved = from_first(lambda: [*map(str, _saved(folder))])
    if not saved:
        return None
    abstract = jax.tree.map(np.asarray, host(like))
    # Within a tuning under way the state before it takes over once this one is deleted.
    with reading(newest := Path(saved[-1])):
        loaded = ocp.load(str(newest.resolve()), _as_dict(abstract))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(loaded)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def epochs_saved(folder: Path) -> int:
    """Epochs of the newest state in `folder`; 0 where there is none."""
    return max((int(path.name) for path in _saved(folder)), default=0)


def _saved(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir() and path.name.isdigit())


def _as_dict(state: TuneState) -> dict[str, Any]:
    """A plain dict of leaves in the order of `state`: readable without importing nt_jax."""
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)]
    keys = [f"{place:02d}{name}" for place, name in enumerate(names)]
    return dict(zip(keys, jax.tree.leaves(state), strict=True))


class History:
    """metrics.jsonl: one line per epoch, cut back to the checkpoint's epoch on resumption."""

    def __init__(self, path: Path, epoch: int):
        self.path = path
        # What has been learned goes with its history, or the report would lack the way there.
        with reading(path.parent if epoch else path):
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            rows = [json.loads(line) for line in lines if line.endswith("}")]
            kept = [row for row in rows if row["epoch"] <= epoch]
        if epoch and not kept:
            raise damaged(path.parent, f"{path.name} is empty")
        self.base = kept[0] if kept and kept[0]["epoch"] == 0 else None
        self.last = kept[-1] if kept else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept).encode())

    def write(self, row: dict) -> dict:
        """Append one line and return it."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.last = row
        if "strength" not in row:  # those are tried after the last epoch
            track(row["epoch"], {name: value for name, value in row.items() if name != "epoch"})
        return row


def read_history(folder: Path, best_epoch: int) -> list[dict]:
    """The lines of metrics.jsonl, the kept epoch marked with best = True."""
    with reading(folder / "metrics.jsonl"):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row | {"best": True} if row["epoch"] == best_epoch else row for row in rows]
