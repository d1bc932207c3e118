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
    total = safety_LF.size
    check_counts(safety, utility, safety_LF.shape, first_layer)
    open_LF = np.arange(safety_LF.shape[0])[:, None] >= first_layer
    orders = {
        name: ranking(np.where(open_LF, score_LF, -np.inf))
        for name, score_LF in (("safety", safety_LF), ("utility", utility_LF))
    }
    shared = np.intersect1d(orders["safety"][:safety], orders["utility"][:utility]).size
    # Walk both lists by rank; at each rank safety picks first. A neuron is taken by whichever
    # list reaches it first, which is the list where it ranks higher.
    taken = np.zeros(total, bool)
    chosen: dict[str, list[int]] = {"safety": [], "utility": []}
    wanted, cursor = {"safety": safety, "utility": utility}, {"safety": 0, "utility": 0}
    while any(len(chosen[name]) < wanted[name] for name in wanted):
        for name, order in orders.items():
            if len(chosen[name]) >= wanted[name]:
                continue
            neuron = order[cursor[name]]
            cursor[name] += 1
            if not taken[neuron]:
                taken[neuron] = True
                chosen[name].append(int(neuron))
    flat = np.asarray(chosen["safety"] + chosen["utility"], np.int32)
    layer_P, index_P = np.divmod(flat, np.int32(safety_LF.shape[1]))
    is_safety_P = np.arange(flat.size) < safety
    return NeuronSet(layer_P, index_P, is_safety_P), int(shared)


def random_neurons(
    layers: int, width: int, *, safety: int, utility: int, seed: int, first_layer: int = 0
) -> NeuronSet:
    """As many neurons drawn at random: the control of the paper's "w/o Neuron Pinpointing"."""
    generator = np.random.default_rng([seed, 7])
    flat = generator.permutation((layers - first_layer) * width)[: safety + utility]
    flat = (flat + first_layer * width).astype(np.int32)
    layer_P, index_P = np.divmod(flat, np.int32(width))
    return NeuronSet(layer_P, index_P, np.arange(flat.size) < safety)
