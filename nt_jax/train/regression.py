"""Which step parts harmful from harmless requests: a logistic regression in the factors.

Near where the factors are the decision to refuse prompt x is m(x) + s(x) . d after a step d, s its
slope (slopes.py). The step solves

    min_d  sum_x w_x tau log(1 + exp(-y_x (m(x) + s(x) . d - b) / tau)) + lambda / 2 |d|_P^2

with y = 1 for harmful and -1 for harmless requests. b lies a nat above the mean decision, no higher
than where an opening is said, and no lower than before: where a step failed and all decisions fell
together, the next brings them back. Good answers to harmless requests are there as well, y = 1:
m(x) is what the log odds of their first tokens have gained since the untuned model, and b a fall of
FALLEN, so that they are pulled back where something else would be said. Prompts that are well on
their side count for little, so that the step is about the others. |d|_P is the preconditioner's
norm (preconditioner.py), in which what good answers would notice is long; lambda is such that the
step is as long as slopes hold for. Solved in its M x M dual form, d = P S' a, by Newton's method in
float64. M prompts, P neurons.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from nt_jax.config.method import TuneConfig
from nt_jax.errors import DivergedError
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import (
    ATTACKED_HARMFUL,
    ATTACKED_HARMLESS,
    BEGINNINGS,
    HARMFUL,
    HARMLESS,
)

SAID = -1.5  # b in nats of log odds, at most: above it the opening is said
LIFT = 1.0  # b above the mean decision, at most: what one step may ask for
SOFTNESS = 0.5  # tau, in nats
HALVINGS = 40  # of the search for lambda
NEWTON = 60  # steps, at most
KEPT, FALLEN = 0.5, 1.5  # weight of good answers, beside 1 of all cells; nats that they may lose
LEVEL = "level"  # what a line of metrics.jsonl calls b
ROUNDING = 1e-6  # of the largest slope: a difference below it is none
SAFETY, UTILITY = (ATTACKED_HARMFUL, HARMFUL), (ATTACKED_HARMLESS, HARMLESS)


def combination(
    slopes: CellSlopes,
    free_MP: Float[np.ndarray, "M P"],
    most: float,
    config: TuneConfig,
    in_nats: bool = False,
    asked: float = -np.inf,
) -> tuple[Float[np.ndarray, " M"], dict[str, float]]:
    """(the dual coefficients a of the step; the losses before it, and level, b).

    `slopes` holds the cells' decisions and slopes at the factors; `free_MP` the latter divided by
    the preconditioner, cell after cell. The step is at most `most` long, as a Euclidean norm; or,
    `in_nats`, moves decisions by at most that in the root of the mean square, whatever is learned.
    `asked`: the level of the step before.
    Raises a DivergedError where no step parts the two kinds, or slopes overflow.
    """
    names = slopes.decided
    cells = [name for name in names if name != BEGINNINGS]
    slope_MP = np.concatenate([slopes.cells[name] for name in names])
    side_M = np.concatenate([_side(name) * np.ones(len(slopes.cells[name])) for name in names])
    share = shares(cells, config)
    mean = float(np.mean([slopes.values[name].mean() for name in cells]))
    level = min(SAID, max(mean + LIFT, asked))
    weigh, begin = share | {BEGINNINGS: KEPT}, dict.fromkeys(cells, level) | {BEGINNINGS: -FALLEN}
    count = {name: len(slopes.cells[name]) for name in names}
    weight_M = np.concatenate([np.full(count[n], weigh[n] / count[n]) for n in names])
    value_M = np.concatenate([slopes.values[name] - begin[name] for name in names])
    kernel_MM = slope_MP.astype(np.float64) @ free_MP.T.astype(np.float64)
    of_cells_MM = kernel_MM[: sum(count[name] for name in cells)]
    far_MM = of_cells_MM.T @ of_cells_MM / len(of_cells_MM) if in_nats else free_MP @ free_MP.T
    size = float(np.trace(kernel_MM))
    if not np.isfinite(size):
        raise DivergedError(
            "slopes of training requests are no finite numbers. Try model.dtype=float32, or a "
            "shorter tune.meta_lr."
        )
    if not size > 0 or not np.abs(slopes.difference_P).max() > ROUNDING * np.abs(slope_MP).max():
        raise DivergedError(
            "the slopes of harmful and harmless training requests do not differ: nothing tells "
            "them apart. Check that data.harmful and data.harmless hold different requests."
        )
    low, high, dual_M = 1e-12, 1e6, np.zeros(len(value_M))
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        dual_M = fit(kernel_MM, value_M, side_M, weight_M, middle * size, dual_M)
        far = float(np.sqrt(max(dual_M @ far_MM @ dual_M, 0.0)))
        low, high = (middle, high) if far > most else (low, middle)
    return dual_M, losses(slopes, level, share) | {LEVEL: level}


def fit(
    kernel_MM: Float[np.ndarray, "M M"],
    value_M: Float[np.ndarray, " M"],
    side_M: Float[np.ndarray, " M"],
    weight_M: Float[np.ndarray, " M"],
    ridge: float,
    start_M: Float[np.ndarray, " M"] | None = None,
) -> Float[np.ndarray, " M"]:
    """The coefficients a at lambda = `ridge`, of decisions `value_M` that are counted from b.

    `start_M`: those of another lambda, from which Newton's method needs fewer steps.
    """
    dual_M = np.zeros(len(value_M)) if start_M is None else start_M
    identity = np.eye(len(value_M))

    def cost(dual_M: np.ndarray) -> float:
        moved_M = kernel_MM @ dual_M
        loss_M = SOFTNESS * np.logaddexp(0, -side_M * (value_M + moved_M) / SOFTNESS)
        return float(weight_M @ loss_M + ridge / 2 * dual_M @ moved_M)

    now = cost(dual_M)
    for _ in range(NEWTON):
        moved_M = kernel_MM @ dual_M
        wrong_M = 0.5 * (1 - np.tanh(side_M * (value_M + moved_M) / (2 * SOFTNESS)))
        slope_M = -weight_M * side_M * wrong_M
        curve_M = np.maximum(weight_M * wrong_M * (1 - wrong_M) / SOFTNESS, 1e-12)
        system_MM = curve_M[:, None] * kernel_MM + ridge * identity
        wanted_M = np.linalg.solve(system_MM, curve_M * moved_M - slope_M)
        share = 1.0
        while share > 1e-3 and not cost(dual_M + share * (wanted_M - dual_M)) < now:
            share /= 2
        new_M = dual_M + share * (wanted_M - dual_M)
        if not now - (after := cost(new_M)) > 1e-9 * abs(now):
            break
        dual_M, now = new_M, after
    return dual_M


def losses(slopes: CellSlopes, level: float, share: Mapping[str, float]) -> dict[str, float]:
    """What the step lowers, of harmful (L_s) and of harmless cells (L_u)."""
    values, found = slopes.values, {"loss": 0.0}
    for name, pair in (("safety_loss", SAFETY), ("utility_loss", UTILITY)):
        cells = [cell for cell in pair if cell in share]
        wrong = [-_side(cell) * (values[cell] - level) / SOFTNESS for cell in cells]
        means = [float(SOFTNESS * np.logaddexp(0, each).mean()) for each in wrong]
        parts = [share[cell] * mean for cell, mean in zip(cells, means, strict=True)]
        found["loss"] += sum(parts)
        weight = sum(share[cell] for cell in cells)
        found[name] = sum(parts) / weight if weight else 0.0  # safety_weight is 0 or 1
    return found


def _side(name: str) -> float:
    return 1.0 if name in (*SAFETY, BEGINNINGS) else -1.0


def shares(names: Sequence[str], config: TuneConfig) -> dict[str, float]:
    """What each of the cells `names` weighs: safety_weight of all is that of harmful requests."""
    bare, attacked = config.direct_fraction, config.attacked_harmless_fraction
    harmful, harmless = (1 - bare, bare), (attacked, 1 - attacked)
    wanted = dict(zip((*SAFETY, *UTILITY), (*harmful, *harmless), strict=True))
    found: dict[str, float] = {}
    for pair, weight in ((SAFETY, config.safety_weight), (UTILITY, 1 - config.safety_weight)):
        there = [name for name in pair if name in names]
        total = sum(wanted[name] for name in there)
        for name in there:
            found[name] = weight * (wanted[name] / total if total else 1 / len(there))
    return found
