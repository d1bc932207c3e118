"""Line 21 of Algorithm 1 as it is taken by default: one regression over many prompts.

A meta-gradient of ten prompts is mostly what these ten have in common. Here each epoch measures
the decisions of some hundred training prompts (`tune.metric_requests`, later epochs more:
`tune.step_prompts`) and their slopes at the adapted factors theta' (lines 9-17), one by one, and
steps by their logistic regression (regression.py), pulled back through the inner steps like any
meta-gradient. M prompts, P neurons.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from nt_jax.config.method import TuneConfig
from nt_jax.data.packing import Row
from nt_jax.data.training import evenly
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import host, put, sharding
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.cell_slopes import FILE as SLOPES
from nt_jax.train.cell_slopes import CellSlopes, by_cell, cell_slopes
from nt_jax.train.cells import (
    ATTACKED_HARMLESS,
    BEGINNINGS,
    CELLS,
    NESTED_HARMLESS,
    OWN,
    Rows,
    cell_rows,
)
from nt_jax.train.maml import MetaBatch, MetaOptions, adapt, clipped
from nt_jax.train.pools import Pools
from nt_jax.train.preconditioner import Preconditioner, make_preconditioner
from nt_jax.train.regression import LEVEL, UTILITY, combination, losses, shares
from nt_jax.train.slopes import (
    DECISION,
    Measured,
    answer_rows,
    begun,
    measured_slopes,
    measured_values,
)
from nt_jax.train.tuned_layers import TunedLayers

SHARES = (1.0, 0.5, 0.25)  # of a step that are tried
CHECKED = 10  # prompts of each cell that a step is held to
RAISED = 0.1  # nats by which their loss may rise: late steps that help change it by a hundredth
SECOND = 0.25  # of a step's length: what pulling it through the inner steps may add, at most
FIRST = 4  # first tokens of a good answer that are to stay likely
Cells = Callable[[Sequence[Row]], Measured]
Values = Callable[[Sequence[Row]], Float[np.ndarray, " M"]]


def kept_slopes(
    model: ChatModel, tuned: TunedLayers, pools: Pools, config: TuneConfig, folder: Path
) -> CellSlopes:
    """Those of own answers in the chosen neurons, from `folder` where they were measured before."""
    if not (path := folder / SLOPES).exists():
        rows = cell_rows(pools, config.metric_requests // len(CELLS))
        cell_slopes(model, tuned, {OWN: rows[OWN]}, config).save(path)
    return CellSlopes.load(path, (OWN,))


def preconditioner_of(slopes: CellSlopes, config: TuneConfig, lm: LanguageModel) -> Preconditioner:
    """That of the own answers."""
    own_MP = put(slopes.cells[OWN], sharding(lm.mesh, ""))
    return make_preconditioner(own_MP, config.metric_damping)


@dataclasses.dataclass(frozen=True)
class Regression:
    """What the outer step needs besides the factors and the inner loop's batch."""

    model: ChatModel
    tuned: TunedLayers
    pools: Pools
    config: TuneConfig
    preconditioner: Preconditioner

    def step(
        self,
        theta_P: Array,
        batch: MetaBatch,
        epoch: int,
        options: MetaOptions,
        level: float = -math.inf,
    ) -> tuple[Array, dict[str, float]]:
        """One epoch (lines 8-21): (new theta_P; losses before it, level and share).

        `level`: that of the epoch before.

        options.meta_lr is the step's length, in the root of the mean square over all neurons of the
        layers from the first chosen one on: what an MLP's output feels, however few were chosen.
        """
        lm, neurons = self.tuned.lm, self.tuned.neurons
        length = options.meta_lr * math.sqrt(self.tuned.count * lm.config.neurons)
        adapted_P = adapted(theta_P, lm, neurons, batch, options)
        count = self.config.step_requests(epoch) // len(CELLS)
        asked = cell_rows(self.pools, count, turn=epoch)
        at = functools.partial(measured_slopes, self.tuned, adapted_P, what=DECISION)
        untuned = functools.partial(measured_values, self.tuned, self.tuned.ones_P, what=DECISION)
        slopes = measured_cells(self.model, asked, self.config, at, untuned)
        rest = (length, self.config, lm.mesh)
        direction_P, told = direction(slopes, self.preconditioner, *rest, asked=level)
        pulled_P = pulled(theta_P, direction_P, lm, neurons, batch, options)
        divide = self.preconditioner.divide
        step_P = bounded(divide(direction_P), divide(pulled_P))
        bounds = options.factor_min, options.factor_max

        def moved(share: float) -> Array:
            return jnp.clip(theta_P + share * step_P, *bounds).astype(theta_P.dtype)

        share = self._share(theta_P, moved, asked, told[LEVEL])
        return moved(share), told | {"share": share}

    def _share(
        self, theta_P: Array, moved: Callable[[float], Array], asked: dict[str, Rows], level: float
    ) -> float:
        """How much of a step holds, by the decisions of some of its prompts before the inner steps.

        There, as those are the factors that are kept.
        """
        some = {name: evenly(rows, CHECKED) for name, rows in asked.items() if rows}
        few = rows_of(self.model, some, self.config)

        def decided(theta_P: Array) -> dict[str, np.ndarray]:
            rows = [row for each in few.values() for row in each]
            return by_cell(few, measured_values(self.tuned, theta_P, rows, DECISION))

        return share_that_holds(decided(theta_P), level, self.config, lambda n: decided(moved(n)))


def share_that_holds(
    before: Mapping[str, np.ndarray],
    level: float,
    config: TuneConfig,
    after: Callable[[float], Mapping[str, np.ndarray]],
) -> float:
    """The first of SHARES of a step that raises its own prompts' loss by RAISED at most; else 0.

    Slopes say what a step does while it is short. Where they are wrong, decisions of all prompts
    may fall together by nats, and the epochs after it would start from there. By cell the decisions
    of some prompts that the step was made of: `before` it, and `after` a share of it.
    """
    share_of = shares(list(before), config)

    def loss(values: Mapping[str, np.ndarray]) -> float:
        with np.errstate(invalid="ignore"):  # not a number: no lower than anything
            return losses(CellSlopes({}, values), level, share_of)["loss"]

    most = loss(before) + RAISED
    return next((share for share in SHARES if loss(after(share)) <= most), 0.0)


def direction(
    slopes: CellSlopes,
    preconditioner: Preconditioner,
    most: float,
    config: TuneConfig,
    mesh: Mesh,
    in_nats: bool = False,
    asked: float = -math.inf,
) -> tuple[Float[Array, " P"], dict[str, float]]:
    """(the step of the regression before it is divided by the preconditioner, losses before it).

    The last three arguments and the losses are those of `combination`.
    """
    slope_MP = np.concatenate([slopes.cells[name] for name in slopes.decided])
    where = sharding(mesh, "")
    free_MP = host(divided(preconditioner, put(slope_MP, where)))
    dual_M, told = combination(slopes, free_MP, most, config, in_nats, asked)
    return put((dual_M @ slope_MP).astype(np.float32), where), told


def bounded(first_P: Array, second_P: Array) -> Array:
    """The step `second_P`, as far from `first_P` as SECOND lets it.

    `first_P` has the length that was asked for; the pull through the inner steps multiplies it by
    1 - eta times the curvature of a prompt or two, which has no bound.
    """
    most = float(SECOND * jnp.linalg.norm(first_P))
    return first_P + clipped(second_P - first_P, most)


@jax.jit
def divided(preconditioner: Preconditioner, slope_MP: Array) -> Array:
    """Each row divided by the preconditioner."""
    return jax.vmap(preconditioner.divide)(slope_MP)


def measured_cells(
    model: ChatModel,
    cells: dict[str, Rows],
    config: TuneConfig,
    measure: Cells,
    untuned: Values | None = None,
) -> CellSlopes:
    """The decisions of each cell's rows and their slopes, by `measure` of all rows together.

    Of harmful requests to give the refusal, of harmless ones to begin it at all. With the values of
    the `untuned` model also how near good answers to bare requests are to being begun, counted from
    those: what an apology loses goes to whatever is next, and that is not always an answer.
    """
    rows = rows_of(model, cells, config)
    if untuned is not None:
        bare = cells[OWN][len(cells[ATTACKED_HARMLESS]) :]
        begin = [(prompt, ids[:FIRST]) for prompt, ids in bare]
        rows[BEGINNINGS] = answer_rows(model, begin, config)
    value_M, slope_MP = measure([row for each in rows.values() for row in each])
    values = by_cell(rows, value_M)
    if untuned is not None:
        values[BEGINNINGS] = values[BEGINNINGS] - untuned(rows[BEGINNINGS])
    return CellSlopes(by_cell(rows, slope_MP), values)


def rows_of(
    model: ChatModel, cells: Mapping[str, Rows], config: TuneConfig
) -> dict[str, list[Row]]:
    """The rows of each cell that have a decision: refusals, or how those begin."""
    rows = {n: answer_rows(model, each, config) for n, each in cells.items() if n != OWN}
    return rows | {n: begun(model, rows[n]) for n in (*UTILITY, NESTED_HARMLESS) if n in rows}


@jax.jit
def adapted(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batch: MetaBatch, options: MetaOptions
) -> Array:
    """The factors after the inner steps (nt_jax/train/maml.py)."""
    return adapt(theta_P, lm, neurons, batch, options)


@jax.jit
def pulled(
    theta_P: Array,
    direction_P: Array,
    lm: LanguageModel,
    neurons: NeuronSet,
    batch: MetaBatch,
    options: MetaOptions,
) -> Array:
    """A direction at theta' as one at theta; itself at order 1, or without inner steps."""
    _, pull = jax.vjp(lambda t_P: adapt(t_P, lm, neurons, batch, options), theta_P)
    return pull(direction_P.astype(theta_P.dtype))[0]
