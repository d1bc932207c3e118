"""Attribution as the equations say it: whole passes, one layer at a time, no cache; the oracle."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from nt_jax.attribution.score import EncodedExample, Options
from nt_jax.models.transformer import LanguageModel
from tests.plain import plain_answer_log_probs, plain_logits


def last_token_neurons(lm: LanguageModel, prompt) -> jax.Array:
    """act_LF at the last token of a prompt."""
    acts = []
    plain_logits(lm, prompt, patch=lambda _, act_TF: acts.append(act_TF[-1]) or act_TF)
    return jnp.stack(acts)


@functools.partial(jax.jit, static_argnames="target")
def patched_target(lm, attacked, answer, patch_LF, moved_L, target: str) -> jax.Array:
    """P(answer) with the neurons of layers `moved_L` set to patch_LF at the last prompt token."""

    def patch(layer, act_TF):
        at = len(attacked) - 1
        return act_TF.at[at].set(jnp.where(moved_L[layer], patch_LF[layer], act_TF[at]))

    log_prob_A = plain_answer_log_probs(lm, attacked, answer, patch=patch)
    if target == "first_token":
        return jnp.exp(log_prob_A[0])
    return log_prob_A.sum() if target == "sum_logprob" else jnp.exp(log_prob_A.mean())


slope = jax.jit(jax.grad(patched_target, argnums=3), static_argnames="target")


def rule(options: Options) -> list[tuple[float, float]]:
    """(point, weight) of each node; four of Gauss-Legendre, whose closed form is in any table."""
    if options.nodes != "gauss-legendre":
        offset = {"left": 0, "midpoint": 0.5, "right": 1}[options.nodes]
        return [
            ((step + offset) / options.steps, 1 / options.steps) for step in range(options.steps)
        ]
    found = []
    for side, inner in itertools.product((-1, 1), (-1, 1)):
        at = side * np.sqrt(3 / 7 + inner * 2 / 7 * np.sqrt(6 / 5))
        found.append(((at + 1) / 2, (18 - inner * np.sqrt(30)) / 72))
    return found


def scores(
    lm: LanguageModel, example: EncodedExample, options: Options, gradient: bool = False
) -> np.ndarray:
    """score_LF of Eq. 3 and 4, node by node and layer by layer; or plain gradient x activation."""
    attacked = np.asarray(example.attacked)
    answer = np.asarray(example.answer[: options.answer_tokens])
    v_q_LF = last_token_neurons(lm, example.question)
    v_pq_LF = last_token_neurons(lm, attacked)
    one_by_one = np.eye(lm.config.layers, dtype=bool)
    all_at_once = np.ones((1, lm.config.layers), bool)
    if gradient:
        free = [slope(lm, attacked, answer, v_pq_LF, own_L, options.target) for own_L in one_by_one]
        return np.asarray(v_pq_LF * sum(free))  # each layer's own, while those above follow it
    total_LF = jnp.zeros_like(v_q_LF)
    for alpha, weight in rule(options):
        patch_LF = v_q_LF + alpha * (v_pq_LF - v_q_LF)
        factor = alpha if options.weighting == "alpha" else 1.0
        for moved_L in all_at_once if options.path == "joint" else one_by_one:
            found_LF = slope(lm, attacked, answer, patch_LF, moved_L, options.target)
            total_LF += factor * weight * found_LF  # zero in layers that do not move
    return np.asarray((v_pq_LF - v_q_LF) * total_LF)
