"""Residual streams at the end of many prompts, in length buckets.

B rows of a batch, R of all, T tokens, P reading positions, L layers, D model width.
"""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nt_jax.data.batching import batches_by_length, pad_left
from nt_jax.data.records import Ids
from nt_jax.errors import DataError
from nt_jax.mesh import filled, sharding
from nt_jax.models.precision import wide_dtype
from nt_jax.models.transformer import LanguageModel, forward


@functools.partial(jax.jit, static_argnames="back")
def batch_states(
    lm: LanguageModel,
    scale_LF: Array,
    token_BT: Int[Array, "B T"],
    mask_BT: Bool[Array, "B T"],
    back: tuple[int, ...] = (0,),
) -> Float[Array, "B P L D"]:
    """The residual stream after each layer, `back` tokens before the last column; float32+.

    Right before the final norm, also after the last layer. The pass keeps [L, B, T, D].
    """
    trace = forward(lm.module(scale_LF), lm.config, token_BT, mask_BT, inputs_from=0)
    columns = np.array([token_BT.shape[1] - 1 - steps for steps in back])
    after_LBPD = jnp.concatenate(
        [trace.input_LBTD[1:, :, columns], trace.x_BTD[None, :, columns]], axis=0
    )
    return after_LBPD.transpose(1, 2, 0, 3).astype(wide_dtype(after_LBPD.dtype))


def states_of(
    lm: LanguageModel,
    scale_LF: Array,
    prompts: Sequence[Ids],
    *,
    back: tuple[int, ...] = (0,),
    batch_size: int = 16,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """(row numbers, their `batch_states`) of all prompts; rows of like length share a batch."""
    for row, ids in enumerate(prompts):
        if not max(back) < len(ids) <= lm.config.max_positions:
            raise DataError(
                f"prompt {row + 1} of {len(prompts)} has {len(ids)} tokens; to read its states it "
                f"must have between {max(back) + 1} and {lm.config.max_positions}. "
                "Leave it out or shorten it."
            )
    place, batch_size = sharding(lm.mesh, "B"), filled(batch_size, lm.mesh)
    for width, rows in batches_by_length([len(ids) for ids in prompts], batch_size):
        batch = pad_left([prompts[row] for row in rows], width, batch_size)
        state_BPLD = batch_states(lm, scale_LF, *jax.device_put(batch, place), back=back)
        yield rows, np.asarray(state_BPLD)[: len(rows)]  # the others only fill the batch


def gather_states(
    lm: LanguageModel,
    scale_LF: Array,
    prompts: Sequence[Ids],
    *,
    back: tuple[int, ...] = (0,),
    batch_size: int = 16,
) -> np.ndarray:
    """All of `states_of` in the order of `prompts`, [R, P, L, D]."""
    shape = (len(prompts), len(back), lm.config.layers, lm.config.width)
    state_RPLD = np.zeros(shape, np.float32)
    for rows, state_BPLD in states_of(lm, scale_LF, prompts, back=back, batch_size=batch_size):
        state_RPLD[rows] = state_BPLD
    return state_RPLD
