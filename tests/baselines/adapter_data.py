"""Pools of a few demo requests, and a tiny model that answers in them: what adapters learn from."""

import functools

import jax.numpy as jnp

from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.config.method import TuneConfig
from nt_jax.data.records import AttackTemplate
from nt_jax.generate.chat import ChatModel, load_model
from nt_jax.mesh import make_mesh
from nt_jax.train.pools import Pair, Pools, make_pools
from tests import tiny
from tests.baselines.made_up import in_double

CONFIG = TuneConfig(
    epochs=3, global_batch=4, metric_requests=16, answer_tokens=4, validation_answers=0,
    strengths=(), average=0.5,
)  # fmt: skip


@functools.cache
def model(family: str = "smollm2") -> ChatModel:
    """A tiny chat model."""
    return load_model(str(tiny.checkpoint(family)))


def double_model(family: str = "smollm2") -> ChatModel:
    """The same in float64; only where 64-bit numbers are on."""
    import dataclasses

    lm = in_double(load_weights(str(tiny.checkpoint(family)), "float32", make_mesh()))
    assert lm.ones_LF.dtype == jnp.float64
    return dataclasses.replace(model(family), weights=lambda: lm)


@functools.cache
def pools() -> Pools:
    """Six harmful and six harmless requests, four attacks around both."""
    attacks = [AttackTemplate(f"a{n}", f"{n * '!'} now {{request}}") for n in range(4)]
    harmful = [Pair(f"break thing {n}", [20 + n % 3, 31, 40]) for n in range(6)]
    harmless = [Pair(f"bake bread {n}", [50 + n, 61, 2]) for n in range(6)]
    wrapped = [
        Pair(template.apply(f"boil egg {n}"), [70 + n, 8, 2], attack=template.id)
        for n, template in enumerate([*attacks, *attacks])
    ]
    return make_pools(harmful, attacks, harmless, wrapped, 0.25)
