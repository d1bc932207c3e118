"""Rows that begin alike: what they share, a system prompt, runs once beside them in every layer.

A row's own tokens attend to the shared ones as if they stood before them. The way back goes through
the shared tokens once for each row whose gradient is asked for by itself. Letters are those of
transformer.py; S shared tokens.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nt_jax.models import layers
from nt_jax.models.attention import Attend, Sees, attend, causal, equally
from nt_jax.models.config import ModelConfig
from nt_jax.models.rope import rotary_tables
from nt_jax.models.transformer import Transformer

Streams = tuple[Float[Array, "1 S D"], Float[Array, "B T D"]]  # of what is shared, and of the rows
Layer = Callable[[Streams, layers.Block], Streams]


def one_layer(
    config: ModelConfig, streams: Streams, position_BT: Array, sees: Sees, attention: Attend
) -> Layer:
    """How a layer takes both streams on; `sees` says which of their own keys the rows' queries see.

    The shared tokens stand at positions 0 .. S - 1.
    """
    shared, dtype = streams[0].shape[1], streams[0].dtype
    position_1S = jnp.arange(shared, dtype=jnp.int32)[None]
    every_1S = jnp.ones((1, shared), bool)
    once, own = (
        rotary_tables(position, config.rope, config.head_dim, dtype)
        for position in (position_1S, position_BT)
    )

    def layer(streams: Streams, block: layers.Block) -> Streams:
        shared_1SD, x_BTD = streams
        before: list[Array] = []

        def alone(q: Array, k: Array, v: Array) -> Array:
            rows = (len(x_BTD), *k.shape[1:])
            before.extend(jnp.broadcast_to(each, rows) for each in (k, v))
            return attention(q, [k], [v], [causal(every_1S)])

        shared_1SD, _ = block(shared_1SD, once, config.rms_eps, alone)

        def behind(q: Array, k: Array, v: Array) -> Array:
            return attention(q, [before[0], k], [before[1], v], [equally(every_1S), sees])

        return shared_1SD, block(x_BTD, own, config.rms_eps, behind)[0]

    return layer


def run_layers_behind(
    model: Transformer,
    config: ModelConfig,
    streams: Streams,
    position_BT: Int[Array, "B T"],
    sees: Sees,
    *,
    remat: bool = False,
    attention: Attend = attend,
) -> Float[Array, "B T D"]:
    """The rows' residual stream after the last layer; `position_BT` counts the shared tokens."""
    layer = one_layer(config, streams, position_BT, sees, attention)
    step = lambda streams, block, _: (layer(streams, block), None)  # noqa: E731
    return layers.over_layers(model.blocks, step, streams, remat=remat)[0][1]


def run_below_behind(
    model: Transformer,
    config: ModelConfig,
    first: int,
    streams: Streams,
    position_BT: Int[Array, "B T"],
    sees: Sees,
    attention: Attend = attend,
) -> Streams:
    """Both residual streams where they enter layer `first`; not made to be differentiated."""
    layer = one_layer(config, streams, position_BT, sees, attention)
    step = lambda index, streams: layer(streams, layers.block_at(model.blocks, index))  # noqa: E731
    return jax.lax.fori_loop(0, first, step, streams)
