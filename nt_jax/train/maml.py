"""Algorithm 1: MAML over one factor per chosen neuron. Line numbers are those of the paper.

P chosen neurons, K inner steps. theta_P is the only thing that is ever differentiated; weights and
batches are arguments, so nothing is baked into a compiled program.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from nt_jax.attribution.select import NeuronSet
from nt_jax.data.batching import AnswerBatch
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.objectives import nll, nll_and_kl
from nt_jax.train.theta import scatter

# Sub-batches of different widths (direct, attacked ...) that make up one set; a loss is their
# mean by rows, so short prompts are never padded to the width of long ones.
Batches = tuple[AnswerBatch, ...]


def _static(default):
    return dataclasses.field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MetaOptions:
    """The constants of Algorithm 1.

    The numbers are traced, so a sweep over them compiles once; the others shape the program.
    """

    inner_lr: float = 3.0  # eta_inner
    meta_lr: float = 0.03  # eta_meta
    safety_weight: float = 0.5  # lambda
    kl_weight: float = 0.0  # weight of KL(base || tuned) on harmless answers, added to L_u
    factor_min: float = 0.0
    factor_max: float = 4.0
    order: int = _static(2)  # 2 differentiates through the inner updates, 1 does not
    inner_steps: int = _static(1)  # K
    utility_sign: str = _static("printed")  # printed: line 16 ascends | descent
    with_kl: bool = _static(False)  # whether kl_weight counts: the base model then runs as well
    remat: bool = _static(False)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MetaBatch:
    """One epoch's data: fixed local sets for the inner loop, fresh global batches outside."""

    local_safety: Batches
    local_utility: Batches
    global_safety: Batches
    global_utility: Batches


def row_mean(values: list[Array], batches: Batches) -> Array:
    """Mean of per-sub-batch means, weighted by how many real rows each holds."""
    rows = jnp.stack([jnp.asarray(batch.weight_B, values[0].dtype).sum() for batch in batches])
    return (jnp.stack(values) * rows).sum() / jnp.maximum(rows.sum(), 1)


def answer_loss(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batches: Batches, remat: bool
) -> Float[Array, ""]:
    """Mean NLL of the wanted answers: L_s of safe ones (EvalSafety), L_u of good ones."""
    scale_LF = scatter(theta_P, neurons, lm.ones_LF)
    return row_mean([nll(lm, scale_LF, batch, remat=remat) for batch in batches], batches)


def utility_losses(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batches: Batches, remat: bool
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(L_u, mean KL to the base model on the same answers)."""
    scale_LF = scatter(theta_P, neurons, lm.ones_LF)
    pairs = [nll_and_kl(lm, scale_LF, batch, remat=remat) for batch in batches]
    return row_mean([p[0] for p in pairs], batches), row_mean([p[1] for p in pairs], batches)


def gradient(loss: Callable[..., Array], order: int) -> Callable[..., Array]:
    """The gradient of loss(theta_P, *data) in theta_P, cheap to differentiate once more.

    Plain `jax.grad` of `jax.grad` stores the residuals of the inner backward pass. Since the
    Hessian is symmetric, its product with a cotangent is one jvp of the gradient, which stores
    none (forward over reverse; MixFlow-MG, arXiv 2505.00793). Exact, at first-order memory.
    """
    plain = jax.grad(loss)
    if order == 1:
        return lambda theta_P, *data: jax.lax.stop_gradient(plain(theta_P, *data))

    @jax.custom_vjp
    def symmetric(theta_P: Array, *data) -> Array:
        return plain(theta_P, *data)

    def forward(theta_P: Array, *data):
        return plain(theta_P, *data), (theta_P, data)

    def backward(residuals: tuple, cotangent_P: Array):
        theta_P, data = residuals
        _, product_P = jax.jvp(lambda t_P: plain(t_P, *data), (theta_P,), (cotangent_P,))
        return product_P, *(None for _ in data)

    symmetric.defvjp(forward, backward)
    return symmetric


def adapt(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batch: MetaBatch, options: MetaOptions
) -> Float[Array, " P"]:
    """Theta' after the K inner steps (lines 9-17): safety first, then utility on the result."""
    sign = 1.0 if options.utility_sign == "printed" else -1.0
    is_safety_P = jnp.asarray(neurons.is_safety_P)
    # The gradient is taken in all factors and masked afterwards, or the second order would lose
    # how a safety step depends on the utility factors.
    slope = gradient(functools.partial(answer_loss, remat=options.remat), options.order)

    def step(theta_P: Array, _: None):
        g_P = slope(theta_P, lm, neurons, batch.local_safety)  # lines 11-12
        theta_P = theta_P - options.inner_lr * jnp.where(is_safety_P, g_P, 0)  # line 13
        g_P = slope(theta_P, lm, neurons, batch.local_utility)  # lines 14-15
        theta_P = theta_P + sign * options.inner_lr * jnp.where(is_safety_P, 0, g_P)  # line 16
        return theta_P, None

    return jax.lax.scan(jax.checkpoint(step), theta_P, length=options.inner_steps)[0]


def joint_loss(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batch: MetaBatch, options: MetaOptions
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """(lambda * L_s + (1 - lambda) * L_u at the adapted factors (lines 18-20), its parts)."""
    adapted_P = adapt(theta_P, lm, neurons, batch, options)
    safety = answer_loss(adapted_P, lm, neurons, batch.global_safety, options.remat)
    kl = jnp.zeros_like(safety)
    if options.with_kl:
        utility, kl = utility_losses(adapted_P, lm, neurons, batch.global_utility, options.remat)
    else:
        utility = answer_loss(adapted_P, lm, neurons, batch.global_utility, options.remat)
    weight = options.safety_weight
    total = weight * safety + (1 - weight) * (utility + options.kl_weight * kl)
    return total, {"safety_loss": safety, "utility_loss": utility, "kl": kl}


def meta_gradient(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batch: MetaBatch, options: MetaOptions
) -> tuple[Float[Array, " P"], dict[str, Array]]:
    """(the gradient of line 21, the losses and its norm)."""
    (total, parts), g_P = jax.value_and_grad(joint_loss, has_aux=True)(
        theta_P, lm, neurons, batch, options
    )
    return g_P, {"loss": total, **parts, "gradient_norm": optax.global_norm(g_P)}


@functools.partial(jax.jit, static_argnames="optimiser", donate_argnames=("state",))
def meta_step(
    theta_P: Array,
    state: optax.OptState,
    lm: LanguageModel,
    neurons: NeuronSet,
    batch: MetaBatch,
    *,
    options: MetaOptions,
    optimiser: optax.GradientTransformation,
) -> tuple[Array, optax.OptState, dict[str, Array]]:
    """One epoch of Algorithm 1 (lines 8-21): (new theta_P, optimiser state, losses before it)."""
    g_P, metrics = meta_gradient(theta_P, lm, neurons, batch, options)
    direction_P, state = optimiser.update(g_P, state, theta_P)
    theta_P = theta_P - options.meta_lr * direction_P  # line 21
    return jnp.clip(theta_P, options.factor_min, options.factor_max), state, metrics


def make_optimiser(clip_norm: float) -> optax.GradientTransformation:
    """Adam's direction of a clipped meta-gradient; `meta_step` multiplies it by meta_lr."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.scale_by_adam())
