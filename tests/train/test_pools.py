"""Local and global data stay apart in requests and attacks."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DataError
from nt_jax.train.pools import (
    Pair,
    cut,
    emphasise,
    harmless_rows,
    make_pools,
    safety_rows,
    undivided,
)


def encode(text: str) -> list[int]:
    """A token for every letter."""
    return list(text.encode())


def pairs(kind: str, count: int) -> list[Pair]:
    """Requests of growing length; each has an answer of its own, longer than a batch reads."""
    return [Pair(f"{kind}{n}" + "?" * (n % 7), [n + 1, 7, 7, 7, 7]) for n in range(count)]


def templates(count: int) -> list[AttackTemplate]:
    return [AttackTemplate(str(n), f"<{n}{'!' * n}> {{request}} </{n}>") for n in range(count)]


SAFETY, UTILITY, WRAPPED = pairs("harm", 21), pairs("fine", 18), pairs("sudo fine", 9)
TEMPLATES = templates(10)


def is_attacked(text: str) -> bool:
    return text.startswith(("<", "sudo"))


# --- pools ---------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(), min_size=2, max_size=50, unique=True),
    st.sampled_from([0.5, 0.4, 0.25, 0.1, 0.05]),
)
def test_a_cut_shares_out_every_row_in_order(rows, share):
    local, outer = cut(rows, share)
    assert sorted(local + outer) == sorted(rows) and local and outer
    assert len(local) == math.ceil(len(rows) * share - 1e-9)
    for part in (local, outer):
        assert sorted(part, key=rows.index) == part


def test_local_and_global_pools_share_neither_requests_nor_templates():
    pools = make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED, 0.25)
    for side, everything in (("safety", SAFETY), ("utility", UTILITY)):
        local, outer = getattr(pools, f"local_{side}"), getattr(pools, f"global_{side}")
        ours, theirs = ({p.request for p in pool.direct} for pool in (local, outer))
        assert not ours & theirs and ours | theirs == {p.request for p in everything}
    safe = pools.local_safety, pools.global_safety
    assert all(pool.direct == pool.attacked for pool in safe)
    ids = [{t.id for t in pool.templates} for pool in safe]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == {t.id for t in TEMPLATES}
    wrapped = [{p.request for p in pool.attacked} for pool in (pools.local_utility,
                                                               pools.global_utility)]  # fmt: skip
    assert not wrapped[0] & wrapped[1] and len(wrapped[0] | wrapped[1]) == len(WRAPPED)


def test_undivided_pools_hold_everything_globally():
    pools = make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED, 0.25)
    whole = undivided(pools)
    assert (whole.local_safety, whole.local_utility) == (pools.local_safety, pools.local_utility)
    for pool, direct, attacked, around in (
        (whole.global_safety, SAFETY, SAFETY, TEMPLATES),
        (whole.global_utility, UTILITY, WRAPPED, []),
    ):
        assert sorted(p.request for p in pool.direct) == sorted(p.request for p in direct)
        assert sorted(p.request for p in pool.attacked) == sorted(p.request for p in attacked)
        assert {t.id for t in pool.templates} == {t.id for t in around}


@pytest.mark.parametrize("name", ["harmful", "harmless", "templates"])
def test_too_little_data_to_divide_is_named(name):
    parts = {"harmful": SAFETY, "templates": TEMPLATES, "harmless": UTILITY}
    parts[name] = parts[name][:1]
    with pytest.raises(DataError, match=rf"data.{name}: 1 usable training rows; .* at least 2"):
        make_pools(*parts.values(), WRAPPED, 0.25)


@given(hard=st.integers(0, 9), plain=st.integers(0, 20), share=st.floats(0, 0.9))
def test_emphasis_repeats_what_only_sounds_harmful(hard, plain, share):
    rows = pairs("plain", plain) + [
        dataclasses.replace(pair, sounds_harmful=True) for pair in pairs("hard", hard)
    ]
    found = emphasise(rows, share)
    assert found[: len(rows)] == rows and all(p.sounds_harmful for p in found[len(rows) :])
    repeats = [found.count(pair) for pair in rows if pair.sounds_harmful]
    assert not repeats or max(repeats) - min(repeats) <= 1
    reached = sum(pair.sounds_harmful for pair in found)
    if hard and plain and reached > hard:  # to the nearest whole row
        assert abs(reached - share / (1 - share) * plain) <= 0.5 + 1e-6
    elif hard:
        assert reached == hard >= share / (1 - share) * plain - 0.5 - 1e-6


def test_emphasis_keeps_local_and_global_requests_apart():
    marked = [dataclasses.replace(p, sounds_harmful=n % 3 == 0) for n, p in enumerate(UTILITY)]
    pools = make_pools(SAFETY, TEMPLATES, marked, [], 0.25, sounds_harmful_share=0.75)
    found = [pools.local_utility.direct, pools.global_utility.direct]
    assert not set(map(str, found[0])) & set(map(str, found[1]))
    for pool in found:
        assert abs(sum(pair.sounds_harmful for pair in pool) / len(pool) - 0.75) < 0.06


# --- rows of the preconditioner and the first move -----------------------------------------------


def test_the_first_move_goes_round_all_templates():
    around = templates(14)  # 10 of them global
    pools = make_pools(pairs("harm", 60), around, UTILITY, WRAPPED, 0.25)
    rows = safety_rows(pools, 99, 0.0)
    used = {text.split()[0] for text, _ in rows}
    assert used == {t.apply("").split()[0] for t in around}


def test_the_first_move_reads_bare_and_attacked_requests_in_the_share_of_tuning():
    pools = make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED, 0.25)
    rows = safety_rows(pools, 99, 0.25)
    assert len(rows) == len(SAFETY) and len(safety_rows(pools, 5, 0.25)) == 5
    bare = [row for row in rows if not is_attacked(row[0])]
    assert abs(len(bare) - 0.25 * len(rows)) < 2  # each of the two pools rounds down
    assert {(p.request, *p.answer) for p in SAFETY} >= {(text, *answer) for text, answer in bare}
    for pool in (pools.local_safety, pools.global_safety):
        wrapped = {t.apply(p.request) for t in pool.templates for p in pool.attacked}
        own = {tuple(p.answer) for p in pool.attacked}
        mine = {text for text, answer in rows if is_attacked(text) and tuple(answer) in own}
        assert mine <= wrapped


def test_the_preconditioner_reads_every_request_once_good_answer_first():
    with_refusal = [dataclasses.replace(p, declined=[9, p.answer[0]]) for p in UTILITY]
    pools = make_pools(SAFETY, TEMPLATES, [*with_refusal, *with_refusal], WRAPPED, 0.25)
    rows = harmless_rows(pools)
    assert len(rows) == 3 * len(UTILITY)
    assert {request for request, _ in rows} == {p.request for p in UTILITY}
    targets = [pair.answer for pair in SAFETY]
    for good, target, own in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert good[0] == target[0] == own[0]
        assert target[1] in targets and own[1] == [9, good[1][0]]
    assert harmless_rows(make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED, 0.25)) == []
