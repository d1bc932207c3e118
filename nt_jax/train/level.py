"""How near a refusal all prompts are: a last move of the factors that lifts every decision alike.

Epochs part harmful from harmless prompts (regression.py). Where the two end, nearer a refusal or
farther from one, is hardly learned by that: a change of the factors of a hundredth (root mean
square), a sixth of what the epochs change, lifts all decisions by a nat. So runs end on different
levels by chance (docs/tuning.md). Here the level is chosen: the lift is the shortest change, in the
norm that good answers set, by which every decision gains one nat,

    min_d |d|_P^2  such that  s(x) . d = 1 for all x,   d = P S' (S P S' + r I)^-1 1,

measured at the factors of the last epoch, and validation answers say how many nats of it are kept.
Refusals of every kind rise with it, so it is found by halving. M prompts, P neurons.
"""

import dataclasses
import functools
import io
import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nt_jax.atomic import write_atomic
from nt_jax.config.method import TuneConfig
from nt_jax.console import progress
from nt_jax.errors import DivergedError
from nt_jax.eval.judges.judge import Judge
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import host, put, sharding
from nt_jax.seal import reading
from nt_jax.train.cells import CELLS, cell_rows
from nt_jax.train.outer import divided, measured_cells
from nt_jax.train.pools import Pools
from nt_jax.train.preconditioner import Preconditioner
from nt_jax.train.slopes import DECISION, CellSlopes, measured_slopes
from nt_jax.train.state import History, TuneState
from nt_jax.train.strength import scored
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.tuning_data import TuningData
from nt_jax.train.validate import Look, over_limits, validate

LIFTS, FILE = "lifts.jsonl", "lift.npz"
RIDGE = 0.01  # r, of the mean of S P S'
FALLS = "fall_"


@dataclasses.dataclass(frozen=True)
class Lift:
    """The lift, and the factors that it starts from."""

    epoch: int  # after which it was measured
    last_P: Float[np.ndarray, " P"]  # the factors of that epoch
    lift_P: Float[np.ndarray, " P"]  # what one nat changes

    def by(self, nats: float, config: TuneConfig) -> Float[np.ndarray, " P"]:
        """The factors, lifted by so many nats, within their bounds."""
        return np.clip(self.last_P + np.float32(nats) * self.lift_P, *config.bounds)

    def save(self, folder: Path) -> None:
        """Write it as one file, whole or not at all."""
        content = io.BytesIO()
        np.savez(content, **dataclasses.asdict(self))
        write_atomic(folder / FILE, content.getvalue())

    @classmethod
    def load(cls, folder: Path, epoch: int) -> "Lift | None":
        """What `save` wrote after that epoch."""
        if not (path := folder / FILE).exists():
            return None
        with reading(path), path.open("rb") as file, np.load(file) as arrays:
            found = cls(int(arrays["epoch"]), arrays["last_P"], arrays["lift_P"])
        return found if found.epoch == epoch else None


def unlifted(state: TuneState, folder: Path) -> TuneState:
    """The state of a tuning that is gone on with, without the lift that it ended with."""
    lift = Lift.load(folder, int(state.epoch))
    return state if lift is None else dataclasses.replace(state, average_P=lift.last_P)


def lifted(
    model: ChatModel,
    tuned: TunedLayers,
    data: TuningData,
    config: TuneConfig,
    judge: Judge,
    preconditioner: Preconditioner,
    state: TuneState,
    base: Look,
    folder: Path,
) -> tuple[TuneState, dict]:
    """(the state, its last factors lifted as validation likes best, the line of that look).

    Of tune.lifts the highest within the limits on what rises is searched for by halving.
    """
    lift = Lift.load(folder, int(state.epoch))
    if lift is None:
        lift = measured_lift(model, tuned, data.pools, config, preconditioner, state)
        lift.save(folder)
    log, lifts = History(folder / LIFTS, 0), sorted(config.lifts)
    asked = {kind: len(verdicts) for kind, verdicts in base.refused.items()}
    kept, best = {}, lift.last_P
    low, high = 0, len(lifts)
    with progress("lift", len(lifts).bit_length(), "lifts") as advance:
        while low < high:
            middle = (low + high) // 2
            theta_P = lift.by(lifts[middle], config)
            scale_LF = tuned.scale_LF(jnp.asarray(theta_P))
            row = scored(validate(model, judge, data.validation, scale_LF), base, config)
            log.write({"epoch": int(state.epoch), "lift": lifts[middle], **row})
            if not kept or row["score"] > kept["score"]:
                kept, best = row | {"lift": lifts[middle]}, theta_P
            up = not past_rises(row, asked, config)
            low, high = (middle + 1, high) if up else (low, middle)
            advance(1)
    return dataclasses.replace(state, average_P=best), kept


def read_lifts(folder: Path) -> list[dict]:
    """The lines of lifts.jsonl, that of the kept lift marked with kept = True."""
    path = folder / LIFTS
    with reading(path):
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    best = max(rows, key=lambda row: row["score"], default=None)  # the first of equals, as above
    return [row | {"kept": True} if row is best else row for row in rows]


def past_rises(row: Mapping[str, float], asked: Mapping[str, int], config: TuneConfig) -> bool:
    """Whether something has risen past its limit; what falls too far calls for a higher lift."""
    risen = {name: value for name, value in row.items() if not name.startswith(FALLS)}
    return over_limits(risen, asked, config.max_over_refusal) > 1e-9


def measured_lift(
    model: ChatModel,
    tuned: TunedLayers,
    pools: Pools,
    config: TuneConfig,
    preconditioner: Preconditioner,
    state: TuneState,
) -> Lift:
    """The lift at the factors of the last epoch, over attacks that its slopes were not of."""
    last_P = np.asarray(host(state.average_P))
    rows = cell_rows(pools, config.lift_prompts // len(CELLS), turn=int(state.epoch))
    at = functools.partial(measured_slopes, tuned, jnp.asarray(last_P), what=DECISION)
    slopes = measured_cells(model, rows, config, at)
    where = sharding(model.lm.mesh, "")
    slope_MP = np.concatenate([slopes.cells[name] for name in CELLS])
    free_MP = host(divided(preconditioner, put(slope_MP, where)))
    return Lift(int(state.epoch), last_P, lift_of(slopes, np.asarray(free_MP)).astype(last_P.dtype))


def lift_of(slopes: CellSlopes, free_MP: Float[np.ndarray, "M P"]) -> Float[np.ndarray, " P"]:
    """The shortest change by which decisions gain one nat in the mean, all of them about alike.

    `free_MP`: the cells' slopes, one after the other, divided by the preconditioner. Raises a
    DivergedError where no change lifts them.
    """
    slope_MP = np.concatenate([slopes.cells[name] for name in CELLS]).astype(np.float64)
    kernel_MM = slope_MP @ free_MP.T.astype(np.float64)
    ridge = RIDGE * np.trace(kernel_MM) / max(1, len(kernel_MM))
    lift_P, gain = np.zeros(slope_MP.shape[1]), 0.0
    if ridge > 0:
        system_MM = kernel_MM + ridge * np.eye(len(kernel_MM))
        lift_P = np.linalg.solve(system_MM, np.ones(len(kernel_MM))) @ free_MP.astype(np.float64)
        gain = float((slope_MP @ lift_P).mean())
    if not 0 < gain < np.inf:
        raise DivergedError(
            "no change of the factors lifts the decisions to refuse: their slopes are 0, or not "
            "finite. Choose other neurons, or set tune.lifts=[]."
        )
    return np.asarray(lift_P) / gain
