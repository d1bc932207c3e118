"""Padding, buckets and draws: the right tokens in the right places, every row in its turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.data.batching import batches_by_length, bucket, draw, pack, pad_left
from nt_jax.errors import DataError

token_rows = st.lists(st.lists(st.integers(1, 99), max_size=12), min_size=1, max_size=6)


# --- padding -------------------------------------------------------------------------------------


@given(length=st.integers(0, 500), step=st.sampled_from([1, 8, 16, 32]))
def test_a_bucket_is_the_next_multiple(length, step):
    width = bucket(length, step)
    assert width % step == 0 and width >= max(length, step)
    assert width == step or width - step < length


@given(rows=token_rows, spare=st.integers(0, 5), filler=st.integers(0, 3))
def test_every_row_ends_in_the_last_column(rows, spare, filler):
    width = max(map(len, rows)) + spare
    token_BP, mask_BP = pad_left(rows, width, len(rows) + filler)
    assert token_BP.shape == mask_BP.shape == (len(rows) + filler, width)
    assert token_BP.dtype == np.int32 and mask_BP.dtype == bool
    for row, ids in enumerate(rows):
        assert token_BP[row][mask_BP[row]].tolist() == ids
        assert mask_BP[row, : width - len(ids)].sum() == 0
    assert not mask_BP[len(rows) :].any() and not token_BP[~mask_BP].any()


def test_a_prompt_wider_than_its_batch_is_refused():
    with pytest.raises(DataError, match="a prompt of 5 tokens does not fit a width of 4"):
        pad_left([[1], [1] * 5], 4)


@given(rows=token_rows, answer_width=st.integers(1, 8), filler=st.integers(0, 2), data=st.data())
def test_prompt_and_answer_meet_in_one_column(rows, answer_width, filler, data):
    size = {"min_size": len(rows), "max_size": len(rows)}
    answers = data.draw(st.lists(st.lists(st.integers(1, 99), max_size=12), **size))
    batch = pack(rows, answers, answer_width=answer_width, rows=len(rows) + filler)
    width = batch.prompt_BP.shape[1]
    assert width == bucket(max(map(len, rows))) and batch.answer_BA.shape[1] == answer_width
    assert batch.weight_B.tolist() == [1.0] * len(rows) + [0.0] * filler
    assert batch.weight_B.dtype == np.float32
    tokens_BT, mask_BT = np.asarray(batch.tokens_BT), np.asarray(batch.mask_BT)
    for row, (prompt, answer) in enumerate(zip(rows, answers, strict=True)):
        kept = answer[:answer_width]
        assert tokens_BT[row, width - len(prompt) : width + len(kept)].tolist() == prompt + kept
        expected = [False] * (width - len(prompt)) + [True] * len(prompt + kept)
        assert mask_BT[row].tolist() == expected + [False] * (answer_width - len(kept))
    assert not mask_BT[len(rows) :].any() and not tokens_BT[~mask_BT].any()


def test_a_batch_is_a_pytree_of_its_arrays():
    batch = pack([[1, 2]], [[3]], prompt_width=4, answer_width=2)
    assert len(jax.tree.leaves(batch)) == 5
    doubled = jax.jit(lambda b: jax.tree.map(lambda a: jnp.concatenate([a, a]), b))(batch)
    assert doubled.tokens_BT.shape == (2, 6) and doubled.weight_B.tolist() == [1, 1]


# --- draws ---------------------------------------------------------------------------------------

streams = st.sampled_from(["local_safetydirect", "global_safetyattacked", "x"])


@given(
    seed=st.integers(0, 2**31), stream=streams, size=st.integers(1, 30), count=st.integers(1, 12),
    passes=st.integers(1, 3),
)  # fmt: skip
def test_each_pass_over_the_data_shows_every_row_once(seed, stream, size, count, passes):
    steps = -(-size * passes // count)
    starts = range(0, steps * count, count)
    drawn = np.concatenate([draw(seed, stream, start, size, count) for start in starts])
    assert drawn.dtype == np.int64 and len(drawn) == steps * count
    for start in range(0, size * passes, size):
        assert sorted(drawn[start : start + size]) == list(range(size))


@given(
    seed=st.integers(0, 99), stream=streams, size=st.integers(1, 30), count=st.integers(1, 12),
    steps=st.permutations(range(5)),
)  # fmt: skip
def test_a_draw_depends_on_nothing_but_its_arguments(seed, stream, size, count, steps):
    in_order = draw(seed, stream, 0, size, 5 * count).tolist()
    for start in (count * step for step in steps):  # a run that was killed draws what it would have
        found = draw(seed, stream, start, size, count).tolist()
        assert found == in_order[start : start + count]


def test_seeds_streams_and_passes_are_shuffled_apart():
    def one_pass(seed=0, stream="a", start=0):
        return tuple(draw(seed, stream, start, 20, 20))

    passes = [one_pass(), one_pass(seed=1), one_pass(stream="b"), one_pass(start=20)]
    passes += [one_pass(stream="ab"), one_pass(stream="ba"), tuple(range(20))]
    assert len(set(passes)) == len(passes)


def test_the_draws_of_a_seed_never_change():
    """A run that is resumed with a later version must draw what the earlier one would have."""
    assert draw(0, "local_safetydirect", 12, 10, 4).tolist() == [5, 9, 4, 8]


@given(lengths=st.lists(st.integers(1, 200), max_size=40), batch_size=st.integers(1, 9))
def test_every_row_is_in_one_batch_of_its_width(lengths, batch_size):
    batches = list(batches_by_length(lengths, batch_size))
    assert sorted(row for _, rows in batches for row in rows) == list(range(len(lengths)))
    for width, rows in batches:
        assert 0 < len(rows) <= batch_size and width % 32 == 0
        assert width - 32 < max(lengths[row] for row in rows) <= width
    assert len(batches) == -(-len(lengths) // batch_size)
    widths = [width for width, _ in batches]
    assert widths == sorted(widths)
