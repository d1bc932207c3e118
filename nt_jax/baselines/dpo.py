"""DPO: of two answers to a prompt the chosen one gains on the rejected one, beside the base model.

Source: Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward
Model" (NeurIPS 2023, arXiv 2305.18290), equation 7: the mean over pairs of
-log sigmoid(beta * (log pi(y_w|x)/ref(y_w|x) - log pi(y_l|x)/ref(y_l|x))), log-probabilities summed
over the tokens of an answer. The reference is the untouched model. Learned by the descent that all
adapters share (nt_jax/baselines/descent.py) and by Adam, as LoRA is.

Chosen and rejected: for a harmful prompt the refusal that tuning learns and the untouched model's
own compliance, for a harmless one the good answer that tuning keeps and a refusal. Prompts that the
model refuses by itself have no compliance and are left out. Every harmful request comes bare and
under one attack, as its compliance belongs to that prompt. Answers are cut to tune.answer_tokens.

Left out: label smoothing, a likelihood term beside the loss, updates of the reference.

R rows, B sequences, Q answer tokens.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nt_jax.data.packing import PackedBatch
from nt_jax.data.prompts import text_of
from nt_jax.errors import DataError
from nt_jax.eval.judges.judge import Judge
from nt_jax.generate.chat import ChatModel
from nt_jax.models.transformer import LanguageModel
from nt_jax.train.maml import Loss, MetaOptions
from nt_jax.train.objectives import log_likelihoods, row_sum
from nt_jax.train.pools import Pair, Pool, Pools, attacked_once, undivided
from nt_jax.train.validate import NEW_TOKENS

BETA = 0.1  # the authors' own, unless they say otherwise


@dataclasses.dataclass(frozen=True)
class Preferences:
    """An objective of nt_jax/baselines/descent.py: rows are a chosen and a declined answer."""

    beta: float = BETA

    def __post_init__(self) -> None:
        """Raises a DataError for a beta under which nothing is learned."""
        if not self.beta > 0:
            raise DataError(f"DPO cannot learn with beta {self.beta}. Choose one above 0.")

    def __call__(
        self,
        side: str,
        new: LanguageModel,
        old: LanguageModel,
        rows: PackedBatch,
        options: MetaOptions,
    ) -> Loss:
        """(lambda * loss of harmful pairs, or (1 - lambda) * loss of harmless ones; both parts)."""
        reference_BR2 = jax.lax.stop_gradient(answer_sums(old, rows, remat=False))
        gained_BR2 = answer_sums(new, rows, remat=options.remat) - reference_BR2
        loss = row_sum(preference_loss(gained_BR2, self.beta), rows)
        zero = jnp.zeros_like(loss)
        if side == "global_safety":
            return options.safety_weight * loss, {"safety_loss": loss, "utility_loss": zero}
        return (1 - options.safety_weight) * loss, {"safety_loss": zero, "utility_loss": loss}


def preference_loss(gained_BR2: Float[Array, "B R 2"], beta: float) -> Float[Array, "B R"]:
    """Equation 7 of each pair, in nats; what each answer gained on the reference, chosen first."""
    return -jax.nn.log_sigmoid(beta * (gained_BR2[..., 0] - gained_BR2[..., 1]))


def answer_sums(lm: LanguageModel, rows: PackedBatch, *, remat: bool) -> Float[Array, "B R 2"]:
    """Log-likelihood of each row's answer and declined answer, summed over tokens, in nats."""
    mean_BR2 = log_likelihoods(lm, lm.ones_LF, rows, remat=remat)
    answer_BQ = jnp.asarray(rows.answer_BQ)
    number_A = jnp.arange(mean_BR2.shape[1] * 2, dtype=answer_BQ.dtype)
    tokens_BA = (answer_BQ[:, :, None] == number_A[None, None]).sum(axis=1)
    return mean_BR2 * tokens_BA.reshape(mean_BR2.shape).astype(mean_BR2.dtype)


def preference_pools(
    model: ChatModel, judge: Judge, pools: Pools, answer_tokens: int
) -> tuple[Pools, int, int]:
    """(pools whose pairs are preferences, harmful prompts used, those left out as refused).

    Nothing is kept apart for an inner loop. Raises a DataError where the model refuses all harmful
    prompts by itself.
    """
    sides, whole = (pools.local_safety, pools.global_safety), undivided(pools)
    direct = [pair for side in sides for pair in side.direct]
    attacked = [pair for side in sides for pair in attacked_once(side)]
    bare = with_compliance(model, judge, direct, answer_tokens)
    wrapped = with_compliance(model, judge, attacked, answer_tokens)
    used, asked = len(bare) + len(wrapped), len(direct) + len(attacked)
    if not used:
        raise DataError(
            f"DPO rejects the model's own compliance, but it refuses all {asked} harmful training "
            "prompts by itself. There is nothing to learn from them."
        )
    refusals = [pair.answer for pair in direct]
    good = whole.global_utility
    safe = Pool(bare or wrapped, wrapped)
    kept = Pool(with_refusals(good.direct, refusals), with_refusals(good.attacked, refusals))
    return Pools(safe, safe, kept, kept), used, asked - used


def with_compliance(
    model: ChatModel, judge: Judge, pairs: Sequence[Pair], answer_tokens: int
) -> list[Pair]:
    """The pairs with the untouched model's own answer as the declined one, but for its refusals."""
    prompts, width = [pair.request for pair in pairs], max(answer_tokens, NEW_TOKENS)
    said = model.own_answers(prompts, width, "own compliance")
    asked = [text_of(pair.about or pair.request) for pair in pairs]
    verdicts = judge.verdicts(asked, [model.answer_text(ids) for ids in said])
    found = []
    for pair, ids, refused in zip(pairs, said, verdicts, strict=True):
        if ids and refused != 1:
            ended = [model.eos_id] if len(ids) < width else []
            found.append(dataclasses.replace(pair, declined=[*ids, *ended]))
    return found


def with_refusals(pairs: Sequence[Pair], refusals: Sequence[Sequence[int]]) -> list[Pair]:
    """The pairs with the refusals, in turn, as declined answers."""
    both = ((pair, refusals[n % len(refusals)]) for n, pair in enumerate(pairs))
    return [dataclasses.replace(pair, declined=refusal) for pair, refusal in both]
