"""Algorithm 1 written straight down: plain models, plain loops, jax.grad through jax.grad."""

import jax
import jax.numpy as jnp
import numpy as np

from nt_jax.data.packing import Row
from tests.plain import plain_logits


def arrays(rows: list[Row], decay: float):
    """(token_RT, weight_RT): rows one by one, and what each of their tokens weighs."""
    width = max(len(row.prompt) + len(row.answer) for row in rows)
    token_RT, weight_RT = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width))
    for token_T, weight_T, row in zip(token_RT, weight_RT, rows, strict=True):
        start, stop = len(row.prompt), len(row.prompt) + len(row.answer)
        token_T[:stop] = [*row.prompt, *row.answer]
        own = decay ** np.arange(stop - start)
        weight_T[start:stop] = own / own.sum()
    return token_RT, weight_RT / len(rows)


def nll_and_kl(theta_P, lm, neurons, rows: list[Row], decay: float):
    """(mean NLL, mean KL to the base model) of some rows."""
    return of_arrays(theta_P, lm, neurons, *arrays(rows, decay))


def of_arrays(theta_P, lm, neurons, token_RT, weight_RT):
    """(NLL, KL to the base model) of tokens by their weights."""
    scale_LF = lm.ones_LF.at[neurons.layer_P, neurons.index_P].set(theta_P)
    all_logits = jax.vmap(lambda token_T, scale: plain_logits(lm, token_T, scale), (0, None))
    new_RTV, base_RTV = (
        jax.nn.log_softmax(all_logits(token_RT, scale))[:, :-1] for scale in (scale_LF, lm.ones_LF)
    )
    chosen_RT = jnp.take_along_axis(new_RTV, token_RT[:, 1:, None], axis=-1)[:, :, 0]
    kl_RT = (jnp.exp(base_RTV) * (base_RTV - new_RTV)).sum(axis=-1)
    weight_RT = jnp.asarray(weight_RT[:, 1:])
    return -(weight_RT * chosen_RT).sum(), (weight_RT * kl_RT).sum()


def joint_loss(theta_P, lm, neurons, rows: dict[str, list[Row]], options):
    """Lines 9 to 20 of Algorithm 1 as a function of theta."""

    def loss(theta_P, rows):
        return nll_and_kl(theta_P, lm, neurons, rows, options.token_decay)[0]

    safe_P = jnp.asarray(neurons.is_safety_P, theta_P.dtype)
    sign = {"printed": 1, "descent": -1}[options.utility_sign]
    for _ in range(options.inner_steps):
        theta_P = theta_P - options.inner_lr * safe_P * jax.grad(loss)(
            theta_P, rows["local_safety"]
        )
        slope_P = jax.grad(loss)(theta_P, rows["local_utility"])
        theta_P = theta_P + sign * options.inner_lr * (1 - safe_P) * slope_P
    utility, kl = nll_and_kl(theta_P, lm, neurons, rows["global_utility"], options.token_decay)
    utility = utility + options.kl_weight * options.with_kl * kl
    weight = options.safety_weight
    return weight * loss(theta_P, rows["global_safety"]) + (1 - weight) * utility
