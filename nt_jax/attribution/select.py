"""Scores into neuron sets: top-k over all layers, and what happens to neurons in both sets."""

import chex
import numpy as np
from jaxtyping import Float, Int

from nt_jax.errors import ConfigError
from nt_jax.models.neurons import NeuronSet


def aggregate(score_ELF: Float[np.ndarray, "E L F"]) -> Float[np.ndarray, "L F"]:
    """Mean over examples E of scores divided by their own largest magnitude.

    Without the division one loud example would choose every neuron.
    """
    largest_E = np.abs(score_ELF).max(axis=(1, 2))
    return (score_ELF / np.where(largest_E > 0, largest_E, 1.0)[:, None, None]).mean(axis=0)


def ranking(score_LF: Float[np.ndarray, "L F"]) -> Int[np.ndarray, " LF"]:
    """Flat neuron numbers (layer * F + index) from the highest score down; ties by number."""
    return np.argsort(-score_LF.ravel(), kind="stable")


def check_counts(safety: int, utility: int, shape: tuple[int, int], first_layer: int = 0) -> None:
    """Raises a ConfigError where more neurons are asked for than a model of [L, F] has."""
    layers, width = shape
    if first_layer >= layers:
        raise ConfigError(
            f"neurons.first_layer={first_layer} leaves none of this model's {layers} layers. "
            f"Take a number below {layers}."
        )
    if safety + utility > (total := (layers - first_layer) * width):
        where = f" from layer {first_layer} on" if first_layer else ""
        raise ConfigError(
            f"neurons.safety={safety} + neurons.utility={utility} is more than the {total} "
            f"neurons of this model{where}. Lower one of the two."
        )


def select(
    safety_LF: Float[np.ndarray, "L F"],
    utility_LF: Float[np.ndarray, "L F"],
    *,
    safety: int,
    utility: int,
    first_layer: int = 0,
) -> tuple[NeuronSet, int]:
    """(the chosen neurons, how many both plain top-k lists shared).

    A neuron in both lists goes to the one where it ranks higher (safety on a tie); the other takes
    its next best, so both counts are what the user asked for. Layers below `first_layer` are passed
    over.
    """
    chex.assert_rank([safety_LF, utility_LF], 2)
    chex.assert_equal_shape([safety_LF, utility_LF])
    check_counts(safety, utility, safety_LF.shape, first_layer)
    open_LF = np.arange(safety_LF.shape[0])[:, None] >= first_layer
    scores, wanted = (safety_LF, utility_LF), (safety, utility)
    orders = [ranking(np.where(open_LF, score_LF, -np.inf)) for score_LF in scores]
    shared = np.intersect1d(orders[0][:safety], orders[1][:utility]).size
    # Walk both lists by rank; at each rank safety picks first. A neuron is taken by whichever
    # list reaches it first, which is the list where it ranks higher.
    taken: set[int] = set()
    chosen: tuple[list[int], list[int]] = ([], [])
    for ranked in zip(*orders, strict=True):
        for neuron, mine, count in zip(ranked, chosen, wanted, strict=True):
            if len(mine) < count and neuron not in taken:
                taken.add(neuron)
                mine.append(neuron)
        if len(taken) == safety + utility:
            break
    return _as_set(np.array(chosen[0] + chosen[1]), safety, safety_LF.shape[1]), shared


def random_neurons(
    layers: int, width: int, *, safety: int, utility: int, seed: int, first_layer: int = 0
) -> NeuronSet:
    """As many neurons drawn at random: the control of the paper's "w/o Neuron Pinpointing"."""
    generator = np.random.default_rng([seed, 7])
    flat = generator.permutation((layers - first_layer) * width)[: safety + utility]
    return _as_set(flat + first_layer * width, safety, width)


def _as_set(flat_P: np.ndarray, safety: int, width: int) -> NeuronSet:
    """The neurons with these flat numbers, so many safety ones first."""
    layer_P, index_P = np.divmod(flat_P.astype(np.int32), np.int32(width))
    return NeuronSet(layer_P, index_P, np.arange(flat_P.size) < safety)
