"""One descent for every adapter of weights, on the terms of NeuronTune's own outer loop.

The losses, batches, clipping, cosine schedule and exponential mean are those of nt_jax/train, with
K = 0: safety_weight * NLL of the refusals that are learned + (1 - safety_weight) * (NLL of good
answers + margin_weight * margin), on rows drawn from all of the data. Under
`tune.outer = regression` each epoch is the same regression as that of the factors
(nt_jax/train/outer.py), on slopes of the adapter's own parameters. The forward pass runs on the
merged weights, so that what is trained is what is exported: in bfloat16 models that includes the
rounding of the merge, through which gradients pass as if it were not there. The KL term is left out
(tune.kl_weight is 0 unless set). An `objective` may take the place of those losses
(nt_jax/baselines/dpo.py).

M rows, P learned numbers, B sequences.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from nt_jax.baselines.adapters import Adapter, Form, Params
from nt_jax.config.method import TuneConfig
from nt_jax.console import progress, say
from nt_jax.data.packing import PackedBatch, Row
from nt_jax.data.training import evenly
from nt_jax.errors import DivergedError
from nt_jax.generate.chat import ChatModel
from nt_jax.mesh import sharding
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.batcher import make_batcher
from nt_jax.train.cell_slopes import CellSlopes, kept_cells
from nt_jax.train.cells import CELLS, OWN, Rows, cell_rows
from nt_jax.train.maml import Loss, MetaOptions, safety_loss, utility_loss
from nt_jax.train.objectives import over_stretches
from nt_jax.train.outer import (
    CHECKED,
    Values,
    direction,
    measured_cells,
    preconditioner_of,
    share_that_holds,
)
from nt_jax.train.pools import Pools
from nt_jax.train.preconditioner import Preconditioner
from nt_jax.train.regression import LEVEL
from nt_jax.train.slopes import (
    DECISION,
    Measured,
    Settings,
    by_rows,
    measured_values,
    row_value,
)
from nt_jax.train.tune import at_epoch, meta_options, optimiser_of, running_mean
from nt_jax.train.tuned_layers import TunedLayers

NONE = np.zeros(0, np.int32)
NOBODY = NeuronSet(NONE, NONE, NONE.astype(bool))  # losses of merged weights have no factors
NATS = 1.0  # by which a regression moves decisions: adapters' numbers have no common size
LOSSES = {"global_safety": safety_loss, "global_utility": utility_loss}
# Of a side's name, its changed and untouched upper layers, its rows: programs are kept by it.
Objective = Callable[[str, LanguageModel, LanguageModel, PackedBatch, MetaOptions], Loss]


def likelihoods(
    side: str, new: LanguageModel, old: LanguageModel, rows: PackedBatch, options: MetaOptions
) -> Loss:
    """The losses of tuning itself."""
    return LOSSES[side](jnp.ones(0, old.ones_LF.dtype), new, NOBODY, rows, options)


def descend(
    model: ChatModel,
    adapter: Adapter,
    pools: Pools,
    config: TuneConfig,
    seed: int = 0,
    objective: Objective = likelihoods,
) -> tuple[Params, list[dict[str, float]]]:
    """(the mean of the learned parameters, the losses before each of `config.epochs` updates).

    With safety_weight 1 only refusals are learned, and nothing harmless runs. Raises a
    DivergedError where losses or parameters are not finite.
    """
    lm, config = model.lm, config.model_copy(update={"inner_steps": 0, "kl_weight": 0.0})
    tuned = TunedLayers.above(lm, adapter.first, NOBODY)
    # Each of several sequences at once would hold a gradient of all adapted weights.
    given = (model.encode, pools, config, seed)
    batcher, remat = make_batcher(lm, tuned.count, *given, beside=False)
    options, optimiser = meta_options(config, remat), optimiser_of(config)
    form, theta_P, fixed = parted(adapter, lm, config.outer == "regression", seed)
    metric = None
    untuned = functools.partial(measured_values, tuned, tuned.ones_P, what=DECISION)
    if config.outer == "regression":
        slopes = own_slopes(model, tuned, form, theta_P, fixed, pools, config, seed)
        metric = preconditioner_of(slopes, config, lm)
    say("adapter", "; ".join(filter(None, (f"{form.count:,} learned numbers", batcher.plan()))))
    names = [n for n in LOSSES if n == "global_safety" or config.safety_weight < 1]
    state = (theta_P, optimiser.init(theta_P), fixed)
    theta_P, moments, fixed = jax.device_put(state, sharding(lm.mesh, ""))
    mean_P, history, constant = theta_P, [], config.schedule == "constant"
    at = functools.partial(slopes_at, model, tuned, form, fixed, config)
    with progress("adapter", config.epochs, "epochs") as advance:
        for epoch in range(config.epochs):
            now = options if constant else at_epoch(options, epoch, config.epochs)
            if metric is not None:
                cells = cell_rows(pools, config.step_requests(epoch) // len(CELLS), turn=epoch)
                nats = NATS * float(now.meta_lr / options.meta_lr)
                asked = history[-1][LEVEL] if history else -np.inf
                theta_P, losses = step_by_regression(
                    at, untuned, metric, adapter, form, theta_P, cells, config, lm.mesh, nats, asked
                )
            else:
                batch = batcher.batch(epoch)
                sides = tuned.enter({name: getattr(batch, name) for name in names})
                rest = {"form": form, "optimiser": optimiser, "objective": objective}
                theta_P, moments, losses = adapter_step(
                    theta_P, moments, fixed, tuned.lm, sides, options=now, **rest
                )
            history.append({name: float(value) for name, value in losses.items()})
            if not (np.isfinite(list(history[-1].values())).all() and jnp.isfinite(theta_P).all()):
                raise DivergedError(f"diverged in update {epoch + 1}: {history[-1]}")
            mean_P = running_mean(mean_P, theta_P, epoch, config.average)
            advance(1, f"loss {history[-1]['loss']:.2f}")
    return fixed | form.params(mean_P), history


def step_by_regression(
    at: Callable[..., CellSlopes],
    untuned: Values,
    metric: Preconditioner,
    adapter: Adapter,
    form: Form,
    theta_P: Array,
    cells: dict[str, Rows],
    config: TuneConfig,
    mesh: Mesh,
    nats: float,
    asked: float,
) -> tuple[Float[Array, " P"], dict[str, float]]:
    """One step like the run's (nt_jax/train/outer.py), `nats` long; `at`: `slopes_at` of these."""
    slopes = at(theta_P, cells, untuned)
    way_P, told = direction(slopes, metric, nats, config, mesh, True, asked)
    step_P = metric.divide(way_P)

    def moved(share: float) -> Array:
        return form.vector(adapter.at_strength(form.params(theta_P + share * step_P), 1.0))

    names = [name for name in slopes.decided if name in cells]
    few = {name: evenly(cells[name], CHECKED) for name in names}
    before = {name: np.array(evenly(slopes.values[name].tolist(), CHECKED)) for name in names}
    after = functools.partial(at, cells=few, sloped=False)
    share = share_that_holds(before, told[LEVEL], config, lambda n: after(moved(n)).values)
    return moved(share), told | {"share": share}


def slopes_at(
    model: ChatModel,
    tuned: TunedLayers,
    form: Form,
    fixed: Params,
    config: TuneConfig,
    theta_P: Array,
    cells: dict[str, Rows],
    untuned: Values | None = None,
    sloped: bool = True,
) -> CellSlopes:
    """`measured_cells` where the learned parameters are `theta_P`."""
    at = functools.partial(measured, tuned, form, theta_P, fixed, what=DECISION, sloped=sloped)
    return measured_cells(model, cells, config, at, untuned)


def parted(
    adapter: Adapter, lm: LanguageModel, under_metric: bool, seed: int
) -> tuple[Form, Float[Array, " P"], Params]:
    """(form, vector of the fresh parameters that are learned, the others).

    Under a preconditioner those stay as they are which no slope at the untouched model feels.
    """
    params = adapter.fresh(lm.config, lm.ones_LF.dtype, seed)
    learned = {n: leaf for n, leaf in params.items() if adapter.felt(n) or not under_metric}
    form = Form.of(adapter, learned)
    return form, form.vector(learned), {n: x for n, x in params.items() if n not in learned}


@functools.partial(
    jax.jit, static_argnames=("form", "optimiser", "objective"), donate_argnames=("moments",)
)
def adapter_step(
    theta_P: Array,
    moments: optax.OptState,
    fixed: Params,
    lm: LanguageModel,
    sides: dict[str, PackedBatch],
    *,
    options: MetaOptions,
    form: Form,
    optimiser: optax.GradientTransformation,
    objective: Objective = likelihoods,
) -> tuple[Array, optax.OptState, dict[str, Array]]:
    """One update: (new theta_P, moments, losses before it)."""
    g_P, losses = slope_and_losses(theta_P, fixed, lm, sides, options, form, objective)
    direction_P, moments = optimiser.update(g_P, moments, theta_P)
    moved_P = theta_P - options.meta_lr * jnp.asarray(direction_P)
    return form.vector(form.adapter.at_strength(form.params(moved_P), 1.0)), moments, losses


def slope_and_losses(
    theta_P: Array,
    fixed: Params,
    lm: LanguageModel,
    sides: dict[str, PackedBatch],
    options: MetaOptions,
    form: Form,
    objective: Objective = likelihoods,
) -> tuple[Float[Array, " P"], dict[str, Array]]:
    """(gradient of the loss, the loss and its parts) over the stretches of each side's rows."""
    terms = []
    for name, rows in sides.items():

        def loss(theta_P: Array, part: PackedBatch, name: str = name):
            return objective(name, form.applied(lm, theta_P, fixed), lm, part, options)

        slope = jax.value_and_grad(loss, has_aux=True)
        terms.append(over_stretches(functools.partial(slope, theta_P), rows))
    (total, parts), g_P = jax.tree.map(lambda *values: sum(values), *terms)
    return g_P, {"loss": total, **parts}


def own_slopes(
    model: ChatModel,
    tuned: TunedLayers,
    form: Form,
    theta_P: Array,
    fixed: Params,
    pools: Pools,
    config: TuneConfig,
    seed: int,
) -> CellSlopes:
    """Slopes of own answers in the adapter's parameters, as train/slopes.py has them in factors."""

    def measure(rows: Sequence[Row], what: str) -> Measured:
        return measured(tuned, form, theta_P, fixed, rows, what)

    rows = {OWN: cell_rows(pools, config.metric_requests // len(CELLS))[OWN]}
    about = {"adapter": repr(form), "seed": seed}
    return kept_cells(model, rows, config, about, measure)


def measured(
    tuned: TunedLayers,
    form: Form,
    theta_P: Array,
    fixed: Params,
    rows: Sequence[Row],
    what: str,
    sloped: bool = True,
) -> Measured:
    """(`row_value` of each row, its slope in the parameters, if `sloped`) at `theta_P`."""

    def slopes(batch: PackedBatch, sign_BQ: np.ndarray, settings: Settings):
        rest = settings | {"form": form, "sloped": sloped}
        return row_slopes(theta_P, fixed, tuned.lm, batch, sign_BQ, **rest)

    return by_rows(tuned, rows, form.count if sloped else 0, slopes, what)


@functools.partial(jax.jit, static_argnames=("what", "form", "remat", "sloped"))
def row_slopes(
    theta_P: Array,
    fixed: Params,
    lm: LanguageModel,
    batch: PackedBatch,
    sign_BQ: Array | np.ndarray,
    *,
    form: Form,
    sloped: bool,
    **settings: Any,
) -> tuple[Float[Array, " B"], Float[Array, "B P"]]:
    """(`row_value` of each sequence's only row, its slope, [B, 0] unless `sloped`).

    One row after another: side by side, each would hold a gradient of all adapted weights.
    """

    def value(theta_P: Array, row: PackedBatch, sign_Q: Array) -> Array:
        new = form.applied(lm, theta_P, fixed)
        return row_value(new, new.ones_LF, row, sign_Q, **settings)

    def alone(*given: Any) -> tuple[Array, Array]:
        return value(*given), jnp.zeros(0, theta_P.dtype)

    slope = jax.value_and_grad(value) if sloped else alone
    return jax.lax.map(lambda each: slope(theta_P, *each), (batch, sign_BQ))
