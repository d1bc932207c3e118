"""How alike two attributions are, how concentrated one is, and what its neurons say."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.stats import spearmanr

from nt_jax.attribution.select import ranking
from nt_jax.mesh import host
from nt_jax.models.layers import block_at
from nt_jax.models.transformer import LanguageModel, unembed


def rank_correlation(one_LF: Float[np.ndarray, "L F"], other_LF: Float[np.ndarray, "L F"]) -> float:
    """Spearman's rank correlation over all neurons, -1..1; NaN where one side is constant."""
    if min(np.ptp(one_LF), np.ptp(other_LF)) == 0:
        return float("nan")
    return float(np.asarray(spearmanr(one_LF.ravel(), other_LF.ravel()))[0])


def overlap(
    one_LF: Float[np.ndarray, "L F"], other_LF: Float[np.ndarray, "L F"], count: int
) -> float:
    """Share of the `count` best neurons of one side that are among those of the other, 0..1."""
    best, other = (ranking(score_LF)[:count] for score_LF in (one_LF, other_LF))
    return float(np.intersect1d(best, other).size / max(1, count))


def between_examples(score_ELF: Float[np.ndarray, "E L F"]) -> float:
    """Mean rank correlation over all pairs of examples; NaN for fewer than two."""
    pairs = [rank_correlation(a, b) for a, b in combinations(score_ELF, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def cumulative_share(score_LF: Float[np.ndarray, "L F"]) -> Float[np.ndarray, " LF"]:
    """Share of all positive score that the n best neurons hold, for n = 1, 2, ...; ends at 1."""
    positive = np.maximum(score_LF.ravel()[ranking(score_LF)], 0).astype(np.float64)
    total = positive.sum()
    return np.cumsum(positive) / (total if total > 0 else 1.0)


def neurons_for(share: float, score_LF: Float[np.ndarray, "L F"]) -> int:
    """How many of the best neurons hold `share` of all positive score."""
    return min(int(np.searchsorted(cumulative_share(score_LF), share) + 1), score_LF.size)


def summarise(alpha_ELF: np.ndarray, standard_ELF: np.ndarray, count: int) -> dict[str, float]:
    """What a reader asks of one set's attribution over E examples, `count` neurons being chosen."""
    pairs = list(zip(alpha_ELF, standard_ELF, strict=True))
    return {
        "examples": len(pairs),
        "between_examples": between_examples(standard_ELF),
        "between_weightings": float(np.mean([rank_correlation(*pair) for pair in pairs])),
        "best_in_both_weightings": float(np.mean([overlap(*pair, count) for pair in pairs])),
    }


def concentration(score_LF: np.ndarray, chosen_N: np.ndarray) -> dict[str, float]:
    """How much of a set's scores lies in few neurons, and in the chosen ones, by their scores."""
    total, chosen = (float(np.maximum(each, 0).sum()) for each in (score_LF, chosen_N))
    return {
        "neurons_for_half": neurons_for(0.5, score_LF),
        "share_of_chosen": chosen / total if total else 0.0,
    }


@jax.jit
def column_logits(lm: LanguageModel, layer: Array, index: Array) -> Array:
    """logits_V of one neuron's column of the down projection, read as a residual stream.

    The final norm divides by the column's own length, so neurons of any layer are comparable.
    """
    model = lm.module()
    column_D = block_at(model.blocks, layer).mlp.down_FD(lm.dtype)[index]
    return unembed(model, column_D[None, None], lm.config.rms_eps)[0, 0]


def promoted_tokens(
    lm: LanguageModel, layer_N: np.ndarray, index_N: np.ndarray, sign_N: np.ndarray, count: int
) -> Int[np.ndarray, "N count"]:
    """Ids of the `count` tokens that each neuron promotes most, the strongest first.

    sign_N is the sign of the neuron's activation: a negative one promotes what its column opposes.
    """
    found = []
    for layer, index, sign in zip(layer_N, index_N, sign_N, strict=True):
        logits_V = column_logits(lm, jnp.int32(layer), jnp.int32(index))
        found.append(jax.lax.top_k(logits_V * (1.0 if sign >= 0 else -1.0), count)[1])
    return np.asarray(host(found)).reshape(len(found), count)
