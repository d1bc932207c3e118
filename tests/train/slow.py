"""Algorithm 1 written straight down: plain models, plain loops, jax.grad through jax.grad."""

import jax
import jax.numpy as jnp
import numpy as np

from nt_jax.data.batching import AnswerBatch
from tests.plain import plain_logits


def rows_of(batches: tuple[AnswerBatch, ...], decay: float):
    """(token_RT, weight_RT): real rows without padding before them, and what each token weighs."""
    width = max(b.prompt_BP.shape[1] + b.answer_BA.shape[1] for b in batches)
    tokens, weights = [], []
    for batch in batches:
        for row in np.flatnonzero(batch.weight_B):
            prompt = batch.prompt_BP[row][batch.prompt_mask_BP[row]]
            answer = batch.answer_BA[row][batch.answer_mask_BA[row]]
            token_T, weight_T = np.zeros(width, np.int32), np.zeros(width)
            token_T[: len(prompt) + len(answer)] = [*prompt, *answer]
            own = decay ** np.arange(len(answer))
            weight_T[len(prompt) : len(prompt) + len(answer)] = own / own.sum()
            tokens.append(token_T)
            weights.append(weight_T)
    return np.stack(tokens), np.stack(weights) / len(weights)


def nll_and_kl(theta_P, lm, neurons, batches, decay: float):
    """(mean NLL, mean KL to the base model) of a set of batches."""
    token_RT, weight_RT = rows_of(batches, decay)
    scale_LF = lm.ones_LF.at[neurons.layer_P, neurons.index_P].set(theta_P)
    all_logits = jax.vmap(lambda token_T, scale: plain_logits(lm, token_T, scale), (0, None))
    new_RTV, base_RTV = (
        jax.nn.log_softmax(all_logits(token_RT, scale))[:, :-1] for scale in (scale_LF, lm.ones_LF)
    )
    chosen_RT = jnp.take_along_axis(new_RTV, token_RT[:, 1:, None], axis=-1)[:, :, 0]
    kl_RT = (jnp.exp(base_RTV) * (base_RTV - new_RTV)).sum(axis=-1)
    weight_RT = jnp.asarray(weight_RT[:, 1:])
    return -(weight_RT * chosen_RT).sum(), (weight_RT * kl_RT).sum()


def joint_loss(theta_P, lm, neurons, batch, options):
    """Lines 9 to 20 of Algorithm 1 as a function of theta."""

    def loss(theta_P, batches):
        return nll_and_kl(theta_P, lm, neurons, batches, options.token_decay)[0]

    safe_P = jnp.asarray(neurons.is_safety_P, theta_P.dtype)
    sign = {"printed": 1, "descent": -1}[options.utility_sign]
    for _ in range(options.inner_steps):
        theta_P = theta_P - options.inner_lr * safe_P * jax.grad(loss)(theta_P, batch.local_safety)
        slope_P = jax.grad(loss)(theta_P, batch.local_utility)
        theta_P = theta_P + sign * options.inner_lr * (1 - safe_P) * slope_P
    utility, kl = nll_and_kl(theta_P, lm, neurons, batch.global_utility, options.token_decay)
    utility = utility + options.kl_weight * options.with_kl * kl
    weight = options.safety_weight
    return weight * loss(theta_P, batch.global_safety) + (1 - weight) * utility
