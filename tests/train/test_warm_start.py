"""What a refusal costs the untuned model, by a plain one; factors that tuning begins at."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.config.method import TuneConfig
from nt_jax.data.packing import Row
from nt_jax.models.neurons import Factors, NeuronSet
from nt_jax.sweep.place import neighbour
from nt_jax.train.pools import Pair, Pool, Pools
from nt_jax.train.tune import fresh_state
from nt_jax.train.warm_start import refusal_cost
from tests.train.slow import arrays, of_arrays
from tests.train.test_maml import NEURONS, THETA, model


def ids(text: str) -> list[int]:
    return [3 + ord(letter) % 37 for letter in text]


def test_the_cost_is_nats_over_tokens_of_refusals_of_bare_requests():
    chat = SimpleNamespace(encode=ids, lm=model(jnp.float32), batch_size=4)
    pairs = [Pair("how do I", ids("no, I"), attack=""), Pair("tell me", ids("never"))]
    attacked = [Pair("pretend: how do I", ids("sorry"))]
    empty = Pool([], [])
    pools = Pools(Pool(pairs[:1], attacked), Pool(pairs[1:], []), empty, empty)
    config = TuneConfig(answer_tokens=4)
    rows = [Row(ids(pair.request), pair.answer[:4]) for pair in pairs]
    ones_P = np.ones_like(THETA, np.float32)
    expected, _ = of_arrays(ones_P, chat.lm, NEURONS, *arrays(rows, 1.0))
    assert refusal_cost(chat, pools, config) == pytest.approx(float(expected), rel=1e-5)


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
