"""Scores into neuron sets: top-k over all layers, and what happens to neurons in both sets."""

import dataclasses

import chex
import jax
import numpy as np
from jaxtyping import Float, Int

from nt_jax.errors import ConfigError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NeuronSet:
    """The P chosen neurons, safety ones first, each set in order of falling score."""

    layer_P: jax.Array | np.ndarray  # int32
    index_P: jax.Array | np.ndarray  # int32, the neuron's column in its layer
    is_safety_P: jax.Array | np.ndarray  # bool; False means utility

    def __len__(self) -> int:
        return int(self.layer_P.shape[0])


def aggregate(score_ELF: Float[np.ndarray, "E L F"]) -> Float[np.ndarray, "L F"]:
    """Mean over examples E of scores divided by their own largest magnitude.

    Without the division one loud example would choose every neuron.
    """
    largest_E = np.abs(score_ELF).max(axis=(1, 2))
    return (score_ELF / np.where(largest_E > 0, largest_E, 1.0)[:, None, None]).mean(axis=0)


def ranking(score_LF: Float[np.ndarray, "L F"]) -> Int[np.ndarray, " LF"]:
    """Flat neuron numbers (layer * F + index) from the highest score down; ties by number."""
    return np.argsort(-score_LF.ravel(), kind="stable")


def check_counts(safety: int, utility: int, total: int) -> None:
    """Raises a ConfigError where more neurons are asked for than the model has."""
    if safety + utility > total:
        raise ConfigError(
            f"neurons.safety={safety} + neurons.utility={utility} is more than the {total} "
            "neurons of this model. Lower one of the two."
        )


def select(
    safety_LF: Float[np.ndarray, "L F"],
    utility_LF: Float[np.ndarray, "L F"],
    *,
    safety: int,
    utility: int,
) -> tuple[NeuronSet, int]:
    """(the chosen neurons, how many both plain top-k lists shared).

    A neuron in both lists goes to the one where it ranks higher (safety on a tie); the other takes
    its next best, so both counts are what the user asked for.
    """
    chex.assert_rank([safety_LF, utility_LF], 2)
    chex.assert_equal_shape([safety_LF, utility_LF])
    total = safety_LF.size
    check_counts(safety, utility, total)
    orders = {"safety": ranking(safety_LF), "utility": ranking(utility_LF)}
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


def random_neurons(layers: int, width: int, *, safety: int, utility: int, seed: int) -> NeuronSet:
    """As many neurons drawn at random: the control of the paper's "w/o Neuron Pinpointing"."""
    generator = np.random.default_rng([seed, 7])
    flat = generator.permutation(layers * width)[: safety + utility].astype(np.int32)
    layer_P, index_P = np.divmod(flat, np.int32(width))
    return NeuronSet(layer_P, index_P, np.arange(flat.size) < safety)
