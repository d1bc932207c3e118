"""Many prompts: answers in order, cut at EOS, one program per shape, none too long."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.errors import DataError
from nt_jax.models.answers import answer_prompts, batches_by_length
from nt_jax.models.generate import generate
from tests import plain

NEW = 5
PROMPTS = [[5, 9, 3] * 11, [7], [21, 4, 4], [8] * 33, [30, 1], [12, 13, 14, 15]]


@pytest.fixture(scope="module")
def answers() -> list[list[int]]:
    lm = plain.random_model(dataclasses.replace(plain.CONFIG, eos_ids=()))
    return [plain.plain_answer(lm, prompt, NEW) for prompt in PROMPTS]


def model(answers, mesh=(1, 1)):
    """A model for which two answers end early, one of them at once."""
    eos_ids = (answers[5][2], answers[1][0])
    return plain.random_model(dataclasses.replace(plain.CONFIG, eos_ids=eos_ids), mesh=mesh)


def cut(answers, eos_ids) -> list[list[int]]:
    ends = [[place for place, token in enumerate(row) if token in eos_ids] for row in answers]
    return [row[: end[0] if end else None] for row, end in zip(answers, ends, strict=True)]


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_answers_come_in_the_order_of_their_prompts(answers, batch_size):
    lm = model(answers)
    expected = cut(answers, lm.config.eos_ids)
    assert [len(row) for row in expected] == [5, 0, 5, 5, 5, 2]
    heard = {}
    found = answer_prompts(
        lm, lm.ones_LF, PROMPTS, max_new=NEW, batch_size=batch_size,
        on_batch=lambda rows, done: heard.update(zip(rows, done, strict=True)),
    )  # fmt: skip
    assert found == expected
    assert [heard[row] for row in range(len(PROMPTS))] == expected


def test_batches_are_spread_over_the_mesh(answers):
    lm = model(answers, mesh=(4, 2))
    found = answer_prompts(lm, lm.ones_LF, PROMPTS, max_new=NEW, batch_size=8)
    assert found == cut(answers, lm.config.eos_ids)


def test_two_widths_make_two_programs(answers):
    lm = model(answers)
    before = generate._cache_size()
    for prompts in (PROMPTS, PROMPTS[::-1], PROMPTS[:5], [[9] * 40, [9] * 30]):
        answer_prompts(lm, lm.ones_LF, prompts, max_new=NEW, batch_size=2)
    assert generate._cache_size() - before <= 2  # prompts up to 32 tokens, and up to 64


def test_no_prompts_no_answers(answers):
    lm = model(answers)
    assert answer_prompts(lm, lm.ones_LF, [], max_new=NEW, batch_size=2) == []


def test_a_prompt_that_leaves_no_room_is_named(answers):
    lm = model(answers)
    room = lm.config.max_positions - NEW
    with pytest.raises(DataError, match=f"prompt 2 of 3 has {room + 1} tokens.*context of 64") as e:
        answer_prompts(
            lm, lm.ones_LF, [[1], [1] * (room + 1), [1]], max_new=NEW, batch_size=2
        )  # fmt: skip
    assert "\n" not in str(e.value)
    answer_prompts(lm, lm.ones_LF, [[1] * room], max_new=NEW, batch_size=2)


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
