"""Many prompts in, many answers out: length buckets, full batches, one program per shape."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax import Array

from nt_jax.data.batching import bucket, pad_left
from nt_jax.errors import DataError
from nt_jax.mesh import sharding
from nt_jax.models.generate import generate
from nt_jax.models.transformer import LanguageModel


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[tuple[int, list[int]]]:
    """(prompt width, row numbers) of each batch; rows of like length share a batch."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield bucket(lengths[rows[-1]], 32), rows


def check_lengths(lm: LanguageModel, prompts: Sequence[Sequence[int]], max_new: int) -> None:
    """Raises a DataError naming the first prompt that leaves no room for its answer."""
    room = lm.config.max_positions - max_new
    for row, ids in enumerate(prompts):
        if len(ids) > room:
            raise DataError(
                f"prompt {row + 1} of {len(prompts)} has {len(ids)} tokens; with {max_new} new "
                f"ones it does not fit the model's context of {lm.config.max_positions}. "
                "Shorten or drop it, or lower the number of new tokens."
            )


def answer_prompts(
    lm: LanguageModel,
    scale_LF: Array,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int,
    batch_size: int,
    on_batch: Callable[[list[int], list[list[int]]], None] | None = None,
) -> list[list[int]]:
    """Greedy answers as token ids, in the order of `prompts`, cut before their first EOS.

    `on_batch(rows, answers)` hears of each finished batch, so that nothing earned is lost.
    """
    check_lengths(lm, prompts, max_new)
    answers: list[list[int]] = [[] for _ in prompts]
    place = sharding(lm.mesh, "B")
    for width, rows in batches_by_length([len(ids) for ids in prompts], batch_size):
        token_BP, mask_BP = pad_left([prompts[row] for row in rows], width, batch_size)
        token_BP, mask_BP = jax.device_put((token_BP, mask_BP), place)
        new_BM = np.asarray(generate(lm, scale_LF, token_BP, mask_BP, max_new=max_new))
        for row, new_M in zip(rows, new_BM, strict=False):  # rows that only fill the batch: no row
            ended = np.isin(new_M, lm.config.eos_ids)
            answers[row] = new_M[: int(ended.argmax()) if ended.any() else None].tolist()
        if on_batch is not None:
            on_batch(rows, [answers[row] for row in rows])
    return answers
