"""Intervals and paired tests: plain arrays in, plain numbers out, every random draw seeded."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special  # not stats: importing that takes most of a second

LEVEL = 0.95
RESAMPLES = 2000


def wilson(successes: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a rate, (low, high) in 0..1; (0, 1) without observations.

    `successes` need not be whole: an undecided observation counts as a half.
    """
    if n == 0:
        return 0.0, 1.0
    z, rate = float(special.ndtri(0.5 + level / 2)), successes / n
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At the ends of the scale the interval touches them; rounding must not part the two.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    return low, 1.0 if successes == n else min(1.0, middle + half)


def bootstrap_mean(
    values: ArrayLike, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of `values` [n]."""
    return bootstrap([values], lambda means: means[0], seed, resamples, level)


def paired_change(changes: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Interval (low, high) of the mean of paired changes [n], n > 0; all of them in -1..1.

    The normal one of all changes and z * z more that nobody saw, half of them +1 and half -1: where
    nothing changed it is as wide as Wilson's. A bootstrap would be [0, 0] there for any n.
    """
    change_N, z = np.asarray(changes, float), float(special.ndtri(0.5 + level / 2))
    n, unseen = len(change_N), z * z
    middle = float(change_N.sum()) / (n + unseen)
    squares = (float((change_N**2).sum()) + unseen) / (n + unseen)
    half = z * math.sqrt((squares - middle**2) / (n + unseen))
    return max(-1.0, middle - half), min(1.0, middle + half)


def bootstrap(
    samples: Sequence[ArrayLike],
    statistic: Callable[[list[NDArray[np.float64]]], ArrayLike],
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of a function of the samples' means.

    Each sample is [n] or [n, columns] and is drawn from independently, whole rows at a time;
    `statistic` gets one array of means per sample, [resamples] or [columns, resamples].
    """
    rng = np.random.default_rng(seed)
    means = []
    for sample in samples:
        rows = np.asarray(sample, dtype=np.float64)
        if len(rows) == 0:
            raise ValueError("the bootstrap needs at least one observation in every sample")
        # Counting how often each row is drawn gives all the means in one matrix product.
        counts = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
        means.append((counts @ rows / len(rows)).T)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.asarray(statistic(means)), [tail, 1.0 - tail])
    return float(low), float(high)


def mcnemar(before: ArrayLike, after: ArrayLike) -> float:
    """Exact two-sided p of McNemar's test on paired verdicts [n]; 1 if no pair changed.

    Of verdicts between 0 and 1 the sign test: how many pairs rose, how many fell.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired verdicts differ in number: {first.shape} and {second.shape}")
    gained, lost = int(np.sum(second > first)), int(np.sum(second < first))
    # Either side of the binomial distribution of one half, which is symmetric, in one.
    return min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5)))
