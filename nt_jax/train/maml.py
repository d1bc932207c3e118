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

from nt_jax.data.packing import PackedBatch
from nt_jax.models.neurons import NeuronSet
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.objectives import nll, nll_and_kl, nll_and_margin, over_stretches
from nt_jax.train.theta import scatter

Loss = tuple[Float[Array, ""], dict[str, Array]]  # and its parts by name


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
    margin_weight: float = 0.0  # weight of the margin over declined answers, added to L_u
    kl_weight: float = 0.0  # weight of KL(base || tuned) on harmless answers, added to L_u
    token_decay: float = 1.0  # token t of an answer weighs token_decay**t in every loss
    factor_min: float = 0.0
    factor_max: float = 4.0
    clip_norm: float | None = None  # largest norm of an inner gradient; None: as printed
    order: int = _static(2)  # 2 differentiates through the inner updates, 1 does not
    inner_steps: int = _static(1)  # K
    utility_sign: str = _static("printed")  # printed: line 16 ascends | descent
    with_kl: bool = _static(False)  # whether kl_weight counts: the base model then runs as well
    with_margin: bool = _static(False)  # whether harmless rows come with declined answers
    remat: bool = _static(False)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MetaBatch:
    """One epoch's data: local batches for the inner loop, global ones for a step outside on them.

    None where nothing reads them.
    """

    local_safety: PackedBatch | None = None
    local_utility: PackedBatch | None = None
    global_safety: PackedBatch | None = None
    global_utility: PackedBatch | None = None


def answer_loss(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batch: PackedBatch, options: MetaOptions
) -> Float[Array, ""]:
    """Mean NLL of the wanted answers: L_s of safe ones (EvalSafety), L_u of good ones."""
    scale_LF = scatter(theta_P, neurons, lm.ones_LF)
    return nll(lm, scale_LF, batch, decay=options.token_decay, remat=options.remat)


def safety_loss(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batch: PackedBatch, options: MetaOptions
) -> Loss:
    """(lambda * L_s, its parts by name)."""
    loss = answer_loss(theta_P, lm, neurons, batch, options)
    zero = jnp.zeros_like(loss)
    parts = {"safety_loss": loss, "utility_loss": zero, "kl": zero, "margin": zero}
    return options.safety_weight * loss, parts


def utility_loss(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batch: PackedBatch, options: MetaOptions
) -> Loss:
    """((1 - lambda) * (L_u + kl_weight * KL to the base model + margin_weight * margin), parts)."""
    scale_LF = scatter(theta_P, neurons, lm.ones_LF)
    settings = {"decay": options.token_decay, "remat": options.remat}
    kl = margin = jnp.zeros((), scale_LF.dtype)
    if options.with_kl:
        loss, kl = nll_and_kl(lm, scale_LF, batch, **settings)
    if options.with_margin:
        loss, margin = nll_and_margin(lm, scale_LF, batch, **settings)
    elif not options.with_kl:
        loss = nll(lm, scale_LF, batch, **settings)
    total = loss + options.kl_weight * kl + options.margin_weight * margin
    parts = {"safety_loss": jnp.zeros_like(loss), "utility_loss": loss, "kl": kl, "margin": margin}
    return (1 - options.safety_weight) * total, parts


def gradient(loss: Callable[..., Array], order: int) -> Callable[..., Array]:
    """The gradient of loss(theta_P, lm, neurons, batch, options) over a set, in theta_P.

    Cheap to differentiate again: plain `jax.grad` of `jax.grad` stores the residuals of the inner
    backward pass. Since the Hessian is symmetric, its product with a cotangent is one jvp of the
    gradient, which stores none (forward over reverse; MixFlow-MG, arXiv 2505.00793). Exact, at
    first-order memory.
    """

    def plain(theta_P: Array, lm, neurons, batch: PackedBatch, options: MetaOptions) -> Array:
        slope = jax.grad(loss)
        rule = lambda part: slope(theta_P, lm, neurons, part, options)  # noqa: E731
        return over_stretches(rule, batch)

    def tied(theta_P: Array, *data) -> Array:
        # Weights and batch stay the same over the inner steps, and JAX would compute ahead of the
        # loop what depends on them alone: a copy of the weights per stretch. Not if they come
        # together with the factors, which do change.
        return plain(*jax.lax.optimization_barrier((theta_P, *data)))

    if order == 1:
        return lambda theta_P, *data: tied(jax.lax.stop_gradient(theta_P), *data)

    @jax.custom_vjp
    def symmetric(theta_P: Array, *data) -> Array:
        return tied(theta_P, *data)

    def forward(theta_P: Array, *data):
        return tied(theta_P, *data), (theta_P, data)

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
    if not options.inner_steps:
        return theta_P  # and no batch of the inner loop is there
    sign = 1.0 if options.utility_sign == "printed" else -1.0
    is_safety_P = jnp.asarray(neurons.is_safety_P)
    # The gradient is taken in all factors and masked afterwards, or the second order would lose
    # how a safety step depends on the utility factors.
    slope = gradient(answer_loss, options.order)

    def step(theta_P: Array, _: None):
        g_P = slope(theta_P, lm, neurons, batch.local_safety, options)  # lines 11-12
        g_P = clipped(jnp.where(is_safety_P, g_P, 0), options.clip_norm)
        theta_P = theta_P - options.inner_lr * g_P  # line 13
        g_P = slope(theta_P, lm, neurons, batch.local_utility, options)  # lines 14-15
        g_P = clipped(jnp.where(is_safety_P, 0, g_P), options.clip_norm)
        theta_P = theta_P + sign * options.inner_lr * g_P  # line 16
        return theta_P, None

    return jax.lax.scan(step, theta_P, length=options.inner_steps)[0]


def clipped(g_P: Float[Array, " P"], most: float | None) -> Float[Array, " P"]:
    """A gradient no longer than `most`, as a Euclidean norm.

    Line 16 climbs a loss that has no top: of one likely answer in a thousand the gradient is ten
    times as long as of others, and a step along it leaves a model that says nothing.
    """
    return g_P if most is None else optax.projections.projection_l2_ball(g_P, most)


def meta_gradient(
    theta_P: Array, lm: LanguageModel, neurons: NeuronSet, batch: MetaBatch, options: MetaOptions
) -> tuple[Float[Array, " P"], dict[str, Array]]:
    """(the gradient of line 21; the losses, its norm, and how much of it is second order).

    The loss is lambda * L_s + (1 - lambda) * L_u at the adapted factors (lines 18-20). This is its
    exact gradient, at the memory of one stretch: gradients at the adapted factors are summed
    stretch by stretch, then pulled back through `adapt`. Before that pull they are the first-order
    meta-gradient, so the two can be compared at no cost:
    second_order = ||exact - first order|| / ||exact||, 0 with order 1.
    """
    adapted_P, pull = jax.vjp(lambda t_P: adapt(t_P, lm, neurons, batch, options), theta_P)
    terms = []
    for loss, rows in ((safety_loss, batch.global_safety), (utility_loss, batch.global_utility)):
        assert rows is not None  # drawn wherever the outer step is one on batches
        slope = jax.value_and_grad(loss, has_aux=True)
        rule = lambda b, s=slope: s(adapted_P, lm, neurons, b, options)  # noqa: E731
        terms.append(over_stretches(rule, rows))
    (total, parts), g_P = jax.tree.map(jnp.add, *terms)
    (meta_P,) = pull(g_P)
    norm = optax.tree.norm(meta_P)
    share = optax.tree.norm(meta_P - g_P) / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
    return meta_P, {"loss": total, **parts, "gradient_norm": norm, "second_order": share}


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
    theta_P = theta_P - options.meta_lr * jnp.asarray(direction_P)  # line 21
    return jnp.clip(theta_P, options.factor_min, options.factor_max), state, metrics


@functools.cache  # a static argument of steps: another one would be compiled anew
def make_optimiser(outer: str, clip_norm: float | None) -> optax.GradientTransformation:
    """The direction of an outer update; `meta_step` multiplies it by meta_lr.

    sgd: the meta-gradient itself, as line 21 prints it. adam: Adam's. A regression keeps nothing.
    """
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    rules = {
        "sgd": (clip,),
        "adam": (clip, optax.scale_by_adam()),
        "regression": (optax.identity(),),
    }
    return optax.chain(*rules[outer])
