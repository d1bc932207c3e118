"""What a refusal costs the untuned model, by a plain one."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.config.method import TuneConfig
from nt_jax.data.packing import Row
from nt_jax.train.pools import Pair, Pool, Pools
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
