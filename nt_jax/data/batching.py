"""Token lists into arrays of a few fixed shapes. B rows, P prompt width, A answer width."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from nt_jax.errors import DataError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AnswerBatch:
    """Prompts with given answers: the prompt ends at column P, where the answer starts.

    Left-padded prompts and right-padded answers put every answer in the same columns, so a loss
    reads a static slice and the head never sees prompt positions.
    """

    prompt_BP: jax.Array | np.ndarray  # int32
    prompt_mask_BP: jax.Array | np.ndarray  # bool, False on padding
    answer_BA: jax.Array | np.ndarray  # int32
    answer_mask_BA: jax.Array | np.ndarray  # bool
    weight_B: jax.Array | np.ndarray  # float32, 0 on rows that only fill the batch

    @property
    def tokens_BT(self) -> jax.Array:
        """[B, P + A] prompt and answer side by side."""
        return jax.numpy.concatenate([self.prompt_BP, self.answer_BA], axis=1)

    @property
    def mask_BT(self) -> jax.Array:
        """[B, P + A] which of `tokens_BT` are real."""
        return jax.numpy.concatenate([self.prompt_mask_BP, self.answer_mask_BA], axis=1)


def bucket(length: int, step: int = 16) -> int:
    """The smallest multiple of `step` that holds `length`: few shapes, few compilations."""
    return max(step, -(-length // step) * step)


def shared_length(one: Sequence[int] | np.ndarray, other: Sequence[int] | np.ndarray) -> int:
    """How many first tokens are the same."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(np.asarray(one)[:length] != np.asarray(other)[:length])
    return int(differ[0]) if differ.size else length


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[tuple[int, list[int]]]:
    """(prompt width, row numbers) of each batch; rows of like length share a batch."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield bucket(lengths[rows[-1]], 32), rows


def pad_left(
    rows: Sequence[Sequence[int]], width: int, batch: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(token_BP int32, mask_BP bool) with each row's last token in the last column."""
    batch = len(rows) if batch is None else batch
    token_BP, mask_BP = np.zeros((batch, width), np.int32), np.zeros((batch, width), bool)
    for row, ids in enumerate(rows):
        if len(ids) > width:
            raise DataError(f"a prompt of {len(ids)} tokens does not fit a width of {width}.")
        token_BP[row, width - len(ids) :] = ids
        mask_BP[row, width - len(ids) :] = True
    return token_BP, mask_BP


def pack(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    prompt_width: int | None = None,
    answer_width: int,
    rows: int | None = None,
) -> AnswerBatch:
    """One AnswerBatch; answers are cut to `answer_width`, missing rows repeat nothing, weigh 0."""
    rows = len(prompts) if rows is None else rows
    width = prompt_width or bucket(max(map(len, prompts)))
    prompt_BP, prompt_mask_BP = pad_left(prompts, width, rows)
    weight_B = (np.arange(rows) < len(prompts)).astype(np.float32)
    return AnswerBatch(prompt_BP, prompt_mask_BP, *pad_right(answers, answer_width, rows), weight_B)


def pad_right(
    rows: Sequence[Sequence[int]], width: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """(token_BA int32, mask_BA bool) with each row cut to `width` from its first token on."""
    token_BA, mask_BA = np.zeros((batch, width), np.int32), np.zeros((batch, width), bool)
    for row, ids in enumerate(rows):
        ids = ids[:width]
        token_BA[row, : len(ids)] = ids
        mask_BA[row, : len(ids)] = True
    return token_BA, mask_BA


def draw(seed: int, stream: str, start: int, size: int, count: int) -> np.ndarray:
    """`count` row numbers out of `size` after `start` others: a pure function of its arguments.

    Rows come from consecutive shuffled passes over the data, so none is seen twice before every
    other was seen once, and a run that was killed draws the same rows when it goes on.
    """
    stream_key = np.frombuffer(stream.encode(), np.uint8)
    rows = []
    for position in range(start, start + count):
        epoch, place = divmod(position, size)
        order = np.random.default_rng([seed, epoch, *stream_key]).permutation(size)
        rows.append(order[place])
    return np.asarray(rows, np.int64)
