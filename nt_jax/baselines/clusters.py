"""k-means, and how many clusters there are by the silhouette; a few rows, so plain numpy.

N points, K clusters, X coordinates.
"""

import numpy as np
from jaxtyping import Float, Int

STARTS, LAPS = 8, 100  # of k-means: the best of so many starts, each of at most so many laps


def clusters_of(point_NX: Float[np.ndarray, "N X"], most: int, seed: int) -> Int[np.ndarray, " N"]:
    """The cluster of each point, 0, 1, ...; as many as the silhouette likes best, `most` at most.

    Two points or fewer are one cluster.
    """
    best_N, best = np.zeros(len(point_NX), int), -np.inf
    distance_NN = distances(point_NX, point_NX)
    for count in range(2, min(most, len(point_NX) - 1) + 1):
        cluster_N = k_means(point_NX, count, seed)
        if (value := silhouette(distance_NN, cluster_N)) > best:
            best_N, best = cluster_N, value
    return best_N


def k_means(point_NX: np.ndarray, count: int, seed: int) -> Int[np.ndarray, " N"]:
    """Lloyd's algorithm from k-means++ starts; the partition of the least summed square."""
    rng, best_N, best = np.random.default_rng(seed), np.zeros(len(point_NX), int), np.inf
    for _ in range(STARTS):
        centre_KX, cluster_N = _spread(point_NX, count, rng), best_N
        for _ in range(LAPS):
            square_NK = distances(point_NX, centre_KX) ** 2
            cluster_N = square_NK.argmin(axis=1)
            means = [point_NX[cluster_N == k] for k in range(count)]
            moved_KX = np.array([
                m.mean(axis=0) if len(m) else c for m, c in zip(means, centre_KX, strict=True)
            ])  # fmt: skip
            if np.array_equal(moved_KX, centre_KX):
                break
            centre_KX = moved_KX
        spread = (distances(point_NX, centre_KX) ** 2).min(axis=1).sum()
        if spread < best:
            best_N, best = cluster_N, spread
    return np.unique(best_N, return_inverse=True)[1]  # no number without a point


def _spread(point_NX: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii, 2007): each next centre far from those there are."""
    chosen = [int(rng.integers(len(point_NX)))]
    while len(chosen) < count:
        square_N = (distances(point_NX, point_NX[chosen]) ** 2).min(axis=1)
        total = square_N.sum()
        odds_N = square_N / total if total > 0 else None
        chosen.append(int(rng.choice(len(point_NX), p=odds_N)))
    return point_NX[chosen]


def silhouette(distance_NN: np.ndarray, cluster_N: np.ndarray) -> float:
    """Mean of (b - a) / max(a, b): a to the own cluster, b to the nearest other; -1..1.

    A point alone in its cluster counts 0 (Rousseeuw, 1987).
    """
    member_KN = cluster_N == np.arange(cluster_N.max() + 1)[:, None]
    size_K = member_KN.sum(axis=1)
    sum_NK = distance_NN @ member_KN.T
    row_N, own_N = np.arange(len(cluster_N)), size_K[cluster_N]
    within_N = sum_NK[row_N, cluster_N] / np.maximum(own_N - 1, 1)
    mean_NK = sum_NK / size_K
    mean_NK[row_N, cluster_N] = np.inf
    other_N = mean_NK.min(axis=1)
    value_N = (other_N - within_N) / np.maximum(np.maximum(within_N, other_N), 1e-12)
    return float(np.where(own_N > 1, value_N, 0).mean())


def distances(point_NX: np.ndarray, other_MX: np.ndarray) -> Float[np.ndarray, "N M"]:
    """Euclidean."""
    point, other = point_NX.astype(np.float64), other_MX.astype(np.float64)
    cross_NM = point @ other.T
    square_NM = (point**2).sum(axis=1)[:, None] - 2 * cross_NM + (other**2).sum(axis=1)
    return np.sqrt(np.maximum(square_NM, 0))
