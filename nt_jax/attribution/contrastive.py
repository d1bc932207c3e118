"""The contrastive score: which neurons tell harmful from harmless requests, all together.

Each prompt is described by what every factor does to the decision to refuse it (its slopes).
Fisher's linear discriminant over these descriptions gives a weight per neuron:

    w = (S + lambda I)^-1 (mean slope of harmful requests - mean slope of harmless ones)

S is the scatter of slopes that the factors should not follow, so a neuron that only says what
others say, or that raises every refusal alike, gets little. The weight is the score. Positive:
turning the neuron up makes refusals of harmful requests likelier than those of harmless ones (a
safety neuron). Negative: turning it up does the opposite (a utility neuron).

Not in the paper. On slopes that it was not fitted on, few neurons chosen by it tell the two apart
better than random ones, or than those of equation 4; after two steps of tuning equation 4's do as
well or a little better (docs/experiments.md, Few neurons).
M rows, P neurons.
"""

import numpy as np
from jaxtyping import Float

DAMPING = 0.001  # lambda, as a share of the trace of S


def contrastive_score(
    difference_P: Float[np.ndarray, " P"],
    scatter_MP: Float[np.ndarray, "M P"],
    damping: float = DAMPING,
) -> Float[np.ndarray, " P"]:
    """Float32 w of every neuron, in units of `difference_P`.

    `scatter_MP`: rows whose squares sum to M S. Solved in its M x M dual form, in float64.
    """
    rows_MP = scatter_MP.astype(np.float64)
    gram_MM = rows_MP @ rows_MP.T
    gram_MM += damping * np.trace(gram_MM) * np.eye(len(gram_MM))
    weight_P = difference_P - rows_MP.T @ np.linalg.solve(gram_MM, rows_MP @ difference_P)
    return weight_P.astype(np.float32)
