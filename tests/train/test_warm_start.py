"""Factors that tuning begins at, and the neighbouring cell that they come from."""

import jax.numpy as jnp
import numpy as np

from nt_jax.config.method import TuneConfig
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.sweep.place import neighbour
from nt_jax.train.tune import fresh_state


def neurons(*places: tuple[int, int]) -> NeuronSet:
    layer, index = np.array(places, np.int32).T
    return NeuronSet(layer, index, np.arange(len(places)) < 1)


def test_known_factors_go_to_their_neurons_and_new_neurons_begin_as_ever():
    config = TuneConfig(init_safety=1.5, init_utility=0.5)
    known = Factors(neurons((0, 3), (1, 3), (1, 7)), np.array([2.0, 9.0, 0.25], np.float32))
    mine = neurons((1, 7), (0, 9), (1, 3), (0, 3))
    state = fresh_state(config, mine, known=known)
    expected = np.array([0.25, 0.5, 4.0, 2.0], np.float32)  # 9 is beyond tune.factor_max
    for theta_P in (state.theta_P, state.average_P, state.best_P):
        assert theta_P.dtype == jnp.float32
        np.testing.assert_array_equal(theta_P, expected)
    assert int(state.epoch) == 0


class Cell:
    def __init__(self, **settings: str) -> None:
        self.settings = settings


def test_the_neighbour_is_one_step_along_one_axis():
    cells = [Cell(a=a, b=b) for a in "123" for b in "45"]
    near = {n: cells.index(neighbour(cells, n)) for n in range(1, len(cells))}
    assert near == {1: 0, 2: 0, 3: 2, 4: 2, 5: 4}
