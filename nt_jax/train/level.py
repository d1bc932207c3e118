"""How near a refusal prompts are: a last move of the factors that lifts decisions alike.

Epochs part harmful from harmless prompts (regression.py). Where the two end, nearer a refusal or
farther from one, is hardly learned by that: a change of the factors of a hundredth (root mean
square), a tenth of what the epochs change, lifts all decisions by a nat. So runs end on different
levels by chance, and bare prompts on another one than those inside attacks, or inside attacks
inside attacks (docs/tuning.md). Here all three levels are chosen. There are three lifts, of bare,
attacked and nested prompts: the shortest change, in the norm that good answers set, by which the
decisions of its side gain one nat in the mean and those of the other sides none, each prompt as
near to the mean of its side as is worth the way,

    min_d |d|_P^2 + sum_x (s(x) . d - t(x))^2 / r,      d = P S' (S P S' + r I)^-1 t,

t alike on each side, and such that the means are met exactly. Measured where the lifts start:
`tune.lift_from` of the way from the first factors to those of the last epoch. The rest of the way
costs good answers more than it parts harm. Validation answers say how many nats of each lift are
kept: refusals of every kind of a side rise with its lift, so all are found by halving, in the same
looks. M prompts, P neurons.
"""

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from nt_jax.atomic import write_atomic
from nt_jax.config.method import TuneConfig
from nt_jax.console import progress
from nt_jax.errors import DivergedError
from nt_jax.eval.judges.judge import Judge
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import host, put, sharding
from nt_jax.processes import from_first
from nt_jax.seal import reading
from nt_jax.train import validate as kinds
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import (
    ATTACKED_HARMFUL,
    ATTACKED_HARMLESS,
    HARMFUL,
    HARMLESS,
    NESTED_HARMFUL,
    NESTED_HARMLESS,
    cell_rows,
    nested_rows,
)
from nt_jax.train.lift_search import Nats, past_rises, raised, searched
from nt_jax.train.outer import divided, measured_cells
from nt_jax.train.preconditioner import Preconditioner
from nt_jax.train.slopes import DECISION, measured_slopes
from nt_jax.train.state import TuneState
from nt_jax.train.strength import scored
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.tuning_data import TuningData
from nt_jax.train.validate import Look, over_limits, validate, worth

LIFTS, FILE = "lifts.jsonl", "lift.npz"
RIDGE = 0.3  # r, of the mean of S P S': less makes lifts longer, and prompts of a side no closer
MOST = 1e6  # condition of what lifts do to each side: above it no change lifts one side alone
AGAINST = "against"  # what a line's look was made with (`against`)
# The sides, as a line of lifts.jsonl names their nats.
BARE, ATTACKED, NESTED = "lift", "lift_attacked", "lift_nested"
SIDES = {
    BARE: (HARMFUL, HARMLESS),
    ATTACKED: (ATTACKED_HARMFUL, ATTACKED_HARMLESS),
    NESTED: (NESTED_HARMFUL, NESTED_HARMLESS),
}
# Where tune.lifts lie on each side: inside long attacks decisions end nearer a refusal.
LEVEL = {BARE: 0.0, ATTACKED: 0.0, NESTED: -0.6}


@dataclasses.dataclass(frozen=True)
class Lift:
    """The lifts, and the factors that they start from."""

    epoch: int  # after which they were measured
    last_P: Float[np.ndarray, " P"]  # the factors of that epoch
    start_P: Float[np.ndarray, " P"]  # what is lifted: part of the way to them
    bare_P: Float[np.ndarray, " P"]  # what one nat changes
    attacked_P: Float[np.ndarray, " P"]
    nested_P: Float[np.ndarray, " P"]

    def by(self, nats: Nats, config: TuneConfig) -> Float[np.ndarray, " P"]:
        """The factors, lifted by so many nats of each side, within their bounds."""
        lifts, moved_P = (self.bare_P, self.attacked_P, self.nested_P), self.start_P
        for each, lift_P in zip(nats, lifts, strict=True):
            moved_P = moved_P + np.float32(each) * lift_P
        return np.clip(moved_P, *config.bounds)

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
            names = ("last_P", "start_P", "bare_P", "attacked_P", "nested_P")
            found = cls(int(arrays["epoch"]), *(arrays[name] for name in names))
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
    first_P: Float[Array, " P"],
    base: Look,
    folder: Path,
) -> tuple[TuneState, dict]:
    """(the state with its last factors lifted, the line of that look).

    The lifts start tune.lift_from of the way from `first_P`, the factors before the first epoch.
    By the highest of tune.lifts (from LEVEL) on each side within the limits on what rises there, or
    above all of them (`raised`); where they together are past a limit, by what scored best of all
    that was looked at.
    """
    last_P = np.asarray(host(state.average_P))
    way_P = last_P - np.asarray(host(first_P))
    start_P = (last_P - (1 - config.lift_from) * way_P).astype(last_P.dtype)
    lift = Lift.load(folder, int(state.epoch))
    if lift is None or not np.array_equal(lift.start_P, start_P):
        lift = measured_lift(model, tuned, data, config, preconditioner, state, start_P)
        lift.save(folder)
    about = {"epoch": int(state.epoch), AGAINST: against(base, lift, config, judge)}
    log, asked = folder / LIFTS, {k: len(v) for k, v in base.refused.items()}
    seen = {nats_of(row): row for row in from_first(lambda: seen_looks(log, about))}
    for row in seen.values():  # of other limits, perhaps
        row["score"] = worth(row, over_limits(row, asked, config.max_over_refusal))
    write_atomic(log, "".join(json.dumps(row) + "\n" for row in seen.values()).encode())
    with progress("lift", config.lift_looks, "lifts") as advance:

        def look(nats: Nats) -> dict[str, float]:
            if nats not in seen:
                scale_LF = tuned.scale_LF(jnp.asarray(lift.by(nats, config)))
                row = scored(validate(model, judge, data.validation, scale_LF), base, config)
                seen[nats] = about | dict(zip(SIDES, nats, strict=True)) | row
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(seen[nats]) + "\n")
            advance(1)
            return {k: v for k, v in seen[nats].items() if k not in (*about, *SIDES)}

        lifts = [sorted(round(n + level, 6) for n in config.lifts) for level in LEVEL.values()]
        if not (apart := bool(lift.nested_P.any())):
            lifts[-1] = [0.0] * len(lifts[-1])  # training nests nothing

        def past(row: Mapping[str, float]) -> tuple[bool, ...]:
            bare, attacked, nested = past_rises(row, asked, config)
            return (bare, attacked, nested) if apart else (bare, attacked or nested, False)

        looked, best = searched(lifts, look, past)
        best = raised(lifts, best, looked, look, past, config.lift_looks)
    if looked[best]["score"] < 0:
        best = max(looked, key=lambda nats: looked[nats]["score"])  # the first of equals
    rows = [seen[nats] | ({"kept": True} if nats == best else {}) for nats in looked]
    write_atomic(log, "".join(json.dumps(row) + "\n" for row in rows).encode())
    kept = looked[best] | dict(zip(SIDES, best, strict=True))
    return dataclasses.replace(state, average_P=lift.by(best, config)), kept


def against(base: Look, lift: Lift, config: TuneConfig, judge: Judge) -> str:
    """What a look depends on besides its nats, as a hash: the lifts, and what it is held against.

    The untuned model's verdicts stand for the prompts. What the limits make of a look is counted
    anew.
    """
    refused = {kind: verdicts.tolist() for kind, verdicts in base.refused.items()}
    limits = json.dumps([refused, config.bounds, judge.name, judge.sha256], sort_keys=True)
    parts = (lift.start_P, lift.bare_P, lift.attacked_P, lift.nested_P)
    arrays = b"".join(part.tobytes() for part in parts)
    return hashlib.sha256(arrays + limits.encode()).hexdigest()[:12]


def nats_of(row: Mapping[str, float]) -> Nats:
    """How far a line of lifts.jsonl lifted each side."""
    return tuple(row[side] for side in SIDES)


def seen_looks(path: Path, about: Mapping[str, int | str]) -> list[dict]:
    """The lines that a run which was stopped wrote `about` these lifts: each took minutes."""
    with reading(path):
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]  # the last may be cut
        mine = [row for row in rows if about.items() <= row.items() and {*SIDES} <= {*row}]
    return [{name: value for name, value in row.items() if name != "kept"} for row in mine]


def read_lifts(folder: Path) -> list[dict]:
    """The lines of lifts.jsonl, that of the kept lifts marked with kept = True.

    Runs of earlier versions had no lift of nested attacks; those before them one of both sides,
    and kept the best score.
    """
    path = folder / LIFTS
    with reading(path):
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        rows = [{ATTACKED: row[BARE]} | row for row in rows]
        if rows and not any(row.get("kept") for row in rows):
            max(rows, key=lambda row: row["score"])["kept"] = True  # the first of equals
    return rows


def measured_lift(
    model: ChatModel,
    tuned: TunedLayers,
    data: TuningData,
    config: TuneConfig,
    preconditioner: Preconditioner,
    state: TuneState,
    start_P: Float[np.ndarray, " P"],
) -> Lift:
    """The lifts at `start_P`, over attacks that the slopes of the last epoch were not of.

    None of nested prompts where validation asks none: what cannot be seen is left as it is.
    """
    last_P = np.asarray(host(state.average_P))
    each, turn = config.lift_prompts // sum(map(len, SIDES.values())), int(state.epoch)
    rows = cell_rows(data.pools, each, turn)
    if data.validation.prompts.get(kinds.NESTED):
        rows |= nested_rows(data.pools, each, turn)
    at = functools.partial(measured_slopes, tuned, jnp.asarray(start_P), what=DECISION)
    slopes = measured_cells(model, rows, config, at)
    where = sharding(model.lm.mesh, "")
    slope_MP = np.concatenate([*slopes.cells.values()])
    free_MP = host(divided(preconditioner, put(slope_MP, where)))
    lifts = (each.astype(last_P.dtype) for each in lifts_of(slopes, np.asarray(free_MP)).values())
    return Lift(int(state.epoch), last_P, start_P, *lifts)


def lifts_of(
    slopes: CellSlopes, free_MP: Float[np.ndarray, "M P"]
) -> dict[str, Float[np.ndarray, " P"]]:
    """Changes by which decisions of each side gain one nat in the mean, others none (see above).

    `free_MP`: the cells' slopes, one after the other, divided by the preconditioner. Zero for a
    side without prompts. Raises a DivergedError where no change lifts one side alone.
    """
    cells, sides = slopes.cells, np.array([*SIDES])
    slope_MP = np.concatenate([*cells.values()]).astype(np.float64)
    side_of = {name: side for side, mine in SIDES.items() for name in mine}
    of_M = [side_of[name] for name, each in cells.items() for _ in each]
    there = np.isin(sides, of_M)
    mine_MS = (np.array(of_M)[:, None] == sides[there]).astype(float)
    kernel_MM = slope_MP @ free_MP.T.astype(np.float64)
    ridge, condition = RIDGE * np.trace(kernel_MM) / len(kernel_MM), np.inf
    if 0 < ridge < np.inf:
        dual_MS = np.linalg.solve(kernel_MM + ridge * np.eye(len(kernel_MM)), mine_MS)
        gain_SS = mine_MS.T @ kernel_MM @ dual_MS / mine_MS.sum(axis=0)[:, None]
        condition = np.linalg.cond(gain_SS)
    if not condition < MOST:
        raise DivergedError(
            "no change of the factors lifts the decisions to refuse: their slopes are 0, or not "
            "finite. Choose other neurons, or set tune.lifts=[]."
        )
    lifts_SP = np.zeros((len(sides), slope_MP.shape[1]))
    lifts_SP[there] = np.linalg.solve(gain_SS.T, dual_MS.T) @ free_MP.astype(np.float64)
    return dict(zip(SIDES, lifts_SP, strict=True))
