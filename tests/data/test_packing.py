"""Rows laid end to end keep what each token may see, and fit where they are told to."""

import dataclasses

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from nt_jax.data.packing import (
    PADDING,
    Row,
    Shape,
    fill,
    pack_alone,
    pack_rows,
    shape_of,
    shared_by_all,
)
from nt_jax.errors import DataError
from nt_jax.train.objectives import sees_of

ids = lambda least, most: st.lists(st.integers(1, 9), min_size=least, max_size=most)  # noqa: E731
some_rows = st.builds(
    lambda lead, tails: [Row([*lead, *own], answer, declined) for own, answer, declined in tails],
    ids(0, 4),
    st.lists(st.tuples(ids(1, 6), ids(1, 4), ids(0, 4)), min_size=1, max_size=7),
)


def seen(batch, lead, at: int) -> list[tuple[int, int]]:
    """(position, token) pairs that a place of one sequence sees, in order."""
    part = dataclasses.replace(
        batch,
        **{
            f.name: getattr(batch, f.name)[lead][None]
            for f in dataclasses.fields(batch)
            if f.name != "x_BTD"
        },
    )
    visible_T = np.asarray(sees_of(part)(jnp.int32(at), 1))[0, 0]
    return [
        (int(part.position_BT[0, t]), int(part.token_BT[0, t])) for t in np.flatnonzero(visible_T)
    ]


def contexts(batch) -> list[tuple[tuple, int, float]]:
    """(everything before a target, the target, its row's weight) of all targets."""
    found = []
    for lead in np.ndindex(batch.answer_BQ.shape[:2]):
        for q in np.flatnonzero(batch.answer_BQ[lead] != PADDING):
            before = seen(batch, lead, batch.at_BQ[lead][q])
            assert [place for place, _ in before] == list(range(len(before)))
            weight = batch.weight_BR[lead][batch.answer_BQ[lead][q] // 2]
            found.append(
                (tuple(token for _, token in before), int(batch.target_BQ[lead][q]), weight)
            )
    return sorted(found)


def expected(rows) -> list[tuple[tuple, int, float]]:
    return sorted(
        ((*row.prompt, *answer[:place]), token, 1 / len(rows))
        for row in rows
        for answer in (row.answer, row.declined)
        for place, token in enumerate(answer)
    )


@given(some_rows, st.integers(0, 12), st.sampled_from([1, 2]))
@settings(max_examples=60, deadline=None)
def test_each_target_sees_its_prompt_and_answer_so_far_and_nothing_else(rows, spare, side):
    length = max(row.tokens for row in rows) + spare
    shape = shape_of(rows, length, side)
    assert contexts(pack_rows(rows, shape)) == expected(rows)
    larger = dataclasses.replace(shape, stretches=shape.stretches + 1, targets=shape.targets + 3)
    assert contexts(pack_rows(rows, larger)) == expected(rows)
    alone = dataclasses.replace(shape, stretches=-(-len(rows) // side))
    assert contexts(pack_alone(rows, alone)) == expected(rows)


@given(some_rows, st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_no_sequence_is_overfull_and_every_row_is_in_one(rows, spare):
    length = max(row.tokens for row in rows) + spare
    groups, shared = fill(rows, length), shared_by_all(rows)
    assert sorted(n for group in groups for n in group) == list(range(len(rows)))
    for group in groups:
        assert shared + sum(rows[n].tokens - shared for n in group) <= length


def test_a_shared_beginning_is_laid_down_once():
    rows = [Row([1, 2, 3, token], [5, 6]) for token in (7, 8, 9)]
    assert shared_by_all(rows) == 3
    batch = pack_rows(rows, shape_of(rows, 9, 1))
    assert batch.token_BT.shape == (1, 1, 9) and (batch.part_BT == 0).sum() == 3
    assert shape_of(rows, 8, 1).stretches == 2


def test_an_answer_and_a_refusal_share_their_request():
    batch = pack_rows([Row([1, 2], [3, 4], [5, 6, 7])], Shape(1, 1, 5, 5, 1))
    np.testing.assert_array_equal(batch.token_BT[0, 0], [1, 2, 3, 5, 6])
    np.testing.assert_array_equal(batch.position_BT[0, 0], [0, 1, 2, 2, 3])
    np.testing.assert_array_equal(batch.at_BQ[0, 0], [1, 2, 1, 3, 4])


def test_a_batch_without_rows_is_all_padding():
    batch = pack_rows([], Shape(1, 2, 4, 3, 2))
    assert not batch.weight_BR.any() and (batch.part_BT == PADDING).all()


def test_rows_that_do_not_fit_are_refused():
    rows = [Row([1, 2, 3], [4, 5]), Row([6, 7], [8])]
    with pytest.raises(DataError, match="a row of 4 tokens does not fit a sequence of 3"):
        fill(rows, 3)
    for pack, shape in ((pack_rows, Shape(1, 1, 4, 4, 2)), (pack_alone, Shape(1, 2, 3, 4, 1))):
        with pytest.raises(DataError, match=r"2 rows need .* they do not fit a batch of"):
            pack(rows, shape)
