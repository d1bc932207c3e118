"""The order of prompts, the slots they enter, and the prefixes they take over."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.generate.schedule import MIN_SHARED, Schedule, shared_length, size_bucket

# Prompts made of few, long pieces, so that many begin alike.
piece = st.integers(0, 2).map(lambda n: (n,) * 17)
prompts_strategy = st.lists(
    st.tuples(st.lists(piece, max_size=3), st.lists(st.integers(0, 9), min_size=1, max_size=9)).map(
        lambda parts: [*itertools.chain(*parts[0]), *parts[1]]
    ),
    min_size=1,
    max_size=30,
)


@given(
    prompts=prompts_strategy,
    ways=st.integers(1, 3),
    share=st.integers(1, 4),
    steered=st.booleans(),
    budget=st.sampled_from([16, 40, 128]),
    data=st.data(),
)
def test_every_prompt_enters_once_with_all_of_its_tokens(
    prompts, ways, share, steered, budget, data
):
    """A slot's contents are rebuilt from the refills alone: prefix of the source, then own."""
    batch, rows = ways * share, data.draw(st.integers(1, share))
    schedule = Schedule(prompts, batch, ways, rows, budget, steered)
    held, entered = [[]] * batch, []
    while schedule.waiting:
        free = data.draw(st.lists(st.integers(0, batch - 1), min_size=1, unique=True))
        refill = schedule.next_refill(free)
        packed, before = refill.packed, list(held)
        assert len(packed.row_R) in (ways, ways * rows)
        assert len(refill.rows) <= len(packed.row_R)
        assert len(packed.token_WN) == ways
        for place in range(len(packed.row_R)):
            group, within = divmod(place, len(packed.row_R) // ways)
            mine = packed.row_R[place - within :][: len(packed.row_R) // ways].tolist()
            shared, length = packed.shared_R[place], packed.length_R[place]
            source = before[packed.source_R[place]]
            index_T = packed.index_RT[place, :length]
            assert length >= 1 and shared <= min(len(source), refill.prefix_width)
            assert shared == 0 or shared >= MIN_SHARED
            assert shared == 0 or shared <= len(source) - steered  # a steered token is its own
            whole = source[:shared] + packed.token_WN[group, index_T].tolist()
            assert whole == prompts[packed.row_R[place]]
            assert (packed.of_WN[group, index_T] == mine.index(packed.row_R[place])).all()
            assert packed.place_WN[group, index_T].tolist() == list(range(length))
            assert packed.index_RT.max() < packed.token_WN.shape[1]
            assert len(whole) + 1 <= refill.room
            assert shared + packed.index_RT.shape[1] <= refill.room
            held[packed.slot_R[place]] = whole
        places = [packed.row_R.tolist().index(row) for row in refill.rows]
        slots = packed.slot_R[places].tolist()
        assert len(set(slots)) == len(slots) and set(slots) <= set(free)
        assert set(packed.row_R.tolist()) == set(refill.rows)
        in_group = len(packed.row_R) // ways
        for group in range(ways):
            mine = {place for place in places if place // in_group == group}
            own = packed.length_R[sorted(mine)]
            assert len(own) <= 1 or own.sum() <= budget
        if packed.length_R.max() > budget:  # a longer prompt, beside which each device has one
            assert in_group == 1
        entered += refill.rows
    assert sorted(entered) == list(range(len(prompts)))
    assert schedule.next_refill([0]) is None


def test_one_prompt_leads_and_the_others_take_its_prefix_over():
    head = list(range(40))
    prompts = [[*head, 50 + place] for place in range(9)]
    schedule = Schedule(prompts, 9, 1, 8, 64)
    first, second = schedule.next_refill(list(range(9))), schedule.next_refill(list(range(1, 9)))
    assert len(first.rows) == 1 and not first.packed.shared_R.any()
    assert len(second.rows) == 8 and (second.packed.shared_R == 40).all()
    assert not second.packed.source_R.any() and second.packed.token_WN.shape == (1, 16)
    assert second.packed.length_R.tolist() == [1] * 8


def test_a_free_slot_is_reused_by_those_who_share_its_prefix():
    heads = [[place] * 20 for place in range(3)]
    prompts = [[*head, 7] for head in heads] + [[*heads[1], *range(50)]]
    schedule = Schedule(prompts, 3, 1, 1, 128)
    slots = [schedule.next_refill([place]).packed.slot_R[0] for place in range(3)]
    assert slots == [0, 1, 2]
    last = schedule.next_refill([0, 1, 2]).packed
    assert last.shared_R[0] == 20 and last.slot_R[0] == last.source_R[0]


def test_prompts_are_dealt_out_to_the_devices_by_their_tokens():
    lengths = [10, 11, 12, 13, 14, 15, 16, 18]
    prompts = [[place] * length for place, length in enumerate(lengths)]
    packed = Schedule(prompts, 8, 4, 4, 30).next_refill(range(8)).packed
    tokens = packed.length_R.reshape(4, 4)
    rows = [set(group) for group in packed.row_R.reshape(4, 4).tolist()]
    assert rows == [{0, 4}, {1, 5}, {2, 6}, {3}]  # 13 + 18 are more than 30
    assert packed.token_WN.shape == (4, 30) and tokens[3].tolist() == [13] * 4


def test_long_prompts_enter_together_one_on_each_device():
    prompts = [[place] * 50 for place in range(5)] + [[9] * 3]
    schedule = Schedule(prompts, 8, 4, 4, 30)
    first, second = schedule.next_refill(range(8)), schedule.next_refill(range(4, 8))
    assert first.rows == [0, 1, 2, 3]
    assert first.packed.index_RT.shape == (4, 64) and first.packed.token_WN.shape == (4, 64)
    assert second.rows == [4, 5] and second.packed.index_RT.shape[0] == 4


@given(one=st.lists(st.integers(0, 1)), other=st.lists(st.integers(0, 1)))
def test_shared_length_is_the_longest_common_beginning(one, other):
    count = shared_length(np.array(one, np.int32), np.array(other, np.int32))
    assert one[:count] == other[:count]
    assert count == min(len(one), len(other)) or one[count] != other[count]


def test_buckets_waste_at_most_a_third_and_are_few():
    sizes = [size_bucket(n) for n in range(1, 5000)]
    assert all(size >= n for n, size in enumerate(sizes, 1))
    assert all(size < 1.5 * n for n, size in enumerate(sizes, 1) if n > 128)
    assert len(set(sizes)) < 30 and np.all(np.diff(sizes) >= 0)
