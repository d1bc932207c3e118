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
    make_pools,
    safety_rows,
    undivided,
    with_refusals,
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


def test_attacked_harmless_pairs_go_with_their_attack():
    """What the inner loop sees inside an attack the outer loss must not see inside it."""
    wrapped = [Pair(t.apply(f"fine{n}"), [7], attack=t.id) for n in range(3) for t in TEMPLATES]
    pools = make_pools(SAFETY, TEMPLATES, UTILITY, wrapped, 0.25)
    for scope in ("local", "global"):
        safe, useful = getattr(pools, f"{scope}_safety"), getattr(pools, f"{scope}_utility")
        ids = {t.id for t in safe.templates}
        assert useful.attacked == [pair for pair in wrapped if pair.attack in ids]
    held = [Pair(t.apply(p.request), p.answer, about=p.request, attack=t.id)
            for p in SAFETY for t in TEMPLATES]  # fmt: skip
    pools = make_pools(SAFETY, [], UTILITY, wrapped, 0.25, attacked_safety=held)
    for scope in ("local", "global"):
        ids = {p.attack for p in getattr(pools, f"{scope}_safety").attacked}
        found = getattr(pools, f"{scope}_utility").attacked
        assert found == [pair for pair in wrapped if pair.attack in ids] != []


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
    enough = {"harmful": SAFETY, "templates": TEMPLATES, "harmless": UTILITY}
    parts = enough | {name: enough[name][:1]}
    said = rf"data\.{name}: 1 usable training rows; .* at least 2, .* Give more"
    with pytest.raises(DataError, match=said):
        make_pools(*parts.values(), WRAPPED, 0.25)
    make_pools(*enough.values(), WRAPPED, 0.25)


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


# --- refusals under attack and bare --------------------------------------------------------------


def test_rows_go_round_all_templates():
    around = templates(14)  # 10 of them global
    pools = make_pools(pairs("harm", 60), around, UTILITY, WRAPPED, 0.25)
    rows = safety_rows(pools, 99, 0.0)
    used = {text.split()[0] for text, _ in rows}
    assert used == {t.apply("").split()[0] for t in around}


def test_rows_are_bare_and_attacked_in_the_share_of_tuning():
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


def test_whole_refusals_take_the_place_of_their_own_request_wherever_it_stands():
    about = [Pair(t.apply(p.request), p.answer, about=p.request, attack=t.id)
             for p in SAFETY for t in TEMPLATES[:4]]  # fmt: skip
    pools = make_pools(SAFETY, [], UTILITY, WRAPPED, 0.25, attacked_safety=about)
    whole = {p.request: [100 + n] for n, p in enumerate(SAFETY) if n % 2}
    found = with_refusals(pools, whole)
    assert (found.local_utility, found.global_utility) == (
        pools.local_utility,
        pools.global_utility,
    )
    given = {p.request: p.answer for p in SAFETY}
    for before, now in ((pools.local_safety, found.local_safety),
                        (pools.global_safety, found.global_safety)):  # fmt: skip
        for kind in ("direct", "attacked"):
            rows = getattr(now, kind)
            bare = [pair.about or pair.request for pair in rows]
            assert [p.answer for p in rows] == [whole.get(text, given[text]) for text in bare]
            same = [dataclasses.replace(pair, answer=given[text])
                    for pair, text in zip(rows, bare, strict=True)]  # fmt: skip
            assert same == list(getattr(before, kind))
