"""Local and global data stay apart, and a batch is a function of seed and epoch alone."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from nt_jax.config import TuneConfig
from nt_jax.data.records import AttackTemplate
from nt_jax.errors import DataError
from nt_jax.mesh import make_mesh
from nt_jax.train.examples import (
    WIDTH_STEP,
    Batcher,
    Pair,
    cut,
    emphasise,
    make_pools,
    metric_rows,
    safety_rows,
    stratify,
)

SETS = ("local_safety", "local_utility", "global_safety", "global_utility")
TUNE = TuneConfig(local_batch=4, global_batch=8, answer_tokens=3)


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


def batcher(tune: TuneConfig = TUNE, seed: int = 0, mesh=(1, 1), wrapped=WRAPPED) -> Batcher:
    pools = make_pools(SAFETY, TEMPLATES, UTILITY, wrapped)
    return Batcher(pools, encode, tune, seed, make_mesh(*mesh))


def is_attacked(text: str) -> bool:
    return text.startswith(("<", "sudo"))


def texts(batches) -> list[tuple[str, int]]:
    """(prompt, first answer token) of each row of a set."""
    found = []
    for batch in batches:
        prompts = np.asarray(batch.prompt_BP), np.asarray(batch.prompt_mask_BP)
        for ids, real, answer in zip(*prompts, np.asarray(batch.answer_BA), strict=True):
            found.append((bytes(ids[real].tolist()).decode(), int(answer[0])))
    return found


# --- pools ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(), min_size=2, max_size=50, unique=True))
def test_a_cut_shares_out_every_row_in_order(rows):
    local, outer = cut(rows)
    assert sorted(local + outer) == sorted(rows) and local and outer
    assert len(local) == -(-len(rows) // 4)
    for part in (local, outer):
        assert sorted(part, key=rows.index) == part


def test_local_and_global_pools_share_neither_requests_nor_templates():
    pools = make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED)
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


@pytest.mark.parametrize("name", ["harmful", "harmless", "templates"])
def test_too_little_data_to_divide_is_named(name):
    parts = {"harmful": SAFETY, "templates": TEMPLATES, "harmless": UTILITY}
    parts[name] = parts[name][:1]
    with pytest.raises(DataError, match=rf"data.{name}: 1 usable training rows; .* at least 2"):
        make_pools(*parts.values(), WRAPPED)


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
    pools = make_pools(SAFETY, TEMPLATES, marked, [], sounds_harmful_share=0.75)
    found = [pools.local_utility.direct, pools.global_utility.direct]
    assert not set(map(str, found[0])) & set(map(str, found[1]))
    for pool in found:
        assert abs(sum(pair.sounds_harmful for pair in pool) / len(pool) - 0.75) < 0.06


# --- batches -------------------------------------------------------------------------------------


def test_rows_come_from_their_own_pool_with_their_own_answer():
    made, pools = batcher(), make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED)
    for epoch in range(12):
        batch = made.batch(epoch)
        for name in SETS:
            pool, group = getattr(pools, name), getattr(batch, name)
            assert all((b.weight_B == 1).all() for b in group)
            direct = {(p.request, p.answer[0]) for p in pool.direct}
            if pool.templates:
                attacked = {
                    (t.apply(p.request), p.answer[0]) for t in pool.templates for p in pool.attacked
                }
            else:
                attacked = {(p.request, p.answer[0]) for p in pool.attacked}
            found = texts(group)
            assert {row for row in found if is_attacked(row[0])} <= attacked
            assert {row for row in found if not is_attacked(row[0])} <= direct
            assert group[0].answer_BA.shape[1] == 3 and (np.asarray(group[0].answer_mask_BA)).all()


def test_the_same_seed_and_epoch_give_the_same_batch():
    one, other = batcher(), batcher()
    late = [jax.device_get(one.batch(epoch)) for epoch in (5, 2, 9)]
    for epoch, batch in zip((5, 2, 9), late, strict=True):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(other.batch(epoch)), batch)
    apart = {str(texts(batcher(seed=s).batch(e).global_safety)) for s in (0, 1) for e in (0, 1)}
    assert len(apart) == 4


def test_a_pass_over_the_data_shows_every_request_once():
    made = batcher(TUNE.model_copy(update={"direct_fraction": 1.0}))
    pool = make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED).local_safety.direct
    seen = [text for e in range(len(pool)) for text, _ in texts(made.batch(e).local_safety)]
    assert sorted(seen) == sorted([pair.request for pair in pool] * TUNE.local_batch)


def test_the_first_move_reads_bare_and_attacked_requests_in_the_share_of_tuning():
    pools = make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED)
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


@given(rows=st.integers(1, 30), parts=st.integers(1, 4))
def test_strata_share_out_all_rows_by_length(rows, parts):
    everything = pairs("harm", rows)
    found = stratify(everything, (), encode, parts)
    assert len(found) == min(rows, parts)
    assert sorted(str(p) for s in found for p in s.pairs) == sorted(map(str, everything))
    sizes = [len(s.pairs) for s in found]
    assert max(sizes) - min(sizes) <= 1
    for stratum in found:
        lengths = [len(p.request) for p in stratum.pairs]
        assert stratum.width % WIDTH_STEP == 0 and stratum.width >= max(lengths)
    assert [s.width for s in found] == sorted(s.width for s in found)


def test_fewer_rows_than_strata_still_divide_over_the_mesh():
    pools = make_pools(SAFETY, TEMPLATES[:3], UTILITY, WRAPPED)  # one local template, two global
    tune = TUNE.model_copy(update={"global_batch": 12, "direct_fraction": 0.0})
    batch = Batcher(pools, encode, tune, 0, make_mesh(2, 1)).batch(0)
    sizes = [len(b.weight_B) for b in batch.global_safety]
    assert sum(sizes) == 12 and all(size % 2 == 0 for size in sizes)


def test_short_prompts_are_not_padded_to_the_longest():
    mixed = [Pair("x" * n, [1] * 3) for n in (8, 16, 24, 120) for _ in range(6)]
    pools = make_pools(SAFETY, TEMPLATES, mixed, [])
    made = Batcher(pools, encode, TUNE.model_copy(update={"global_batch": 12}), 0, make_mesh())
    masks = [np.asarray(b.mask_BT) for e in range(9) for b in made.batch(e).global_utility]
    real, padded = (sum(f(m) for m in masks) for f in (np.sum, np.size))
    assert 1 - real / padded < 0.25  # one width for all would waste 62 %


def test_the_metric_reads_every_request_once_good_answer_first():
    with_refusal = [dataclasses.replace(p, declined=[9, p.answer[0]]) for p in UTILITY]
    pools = make_pools(SAFETY, TEMPLATES, [*with_refusal, *with_refusal], WRAPPED)
    rows = metric_rows(pools)
    assert len(rows) == 3 * len(UTILITY)
    assert {request for request, _ in rows} == {p.request for p in UTILITY}
    targets = [pair.answer for pair in SAFETY]
    for good, target, own in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert good[0] == target[0] == own[0]
        assert target[1] in targets and own[1] == [9, good[1][0]]
    assert metric_rows(make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED)) == []


def test_shapes_stay_the_same_so_that_one_program_serves_all_epochs():
    made = batcher()
    shapes = {str(jax.tree.map(np.shape, made.batch(epoch))) for epoch in range(12)}
    assert len(shapes) == 1
    longest = max(len(t.apply(p.request)) for t in TEMPLATES for p in SAFETY)
    assert 0 <= made.longest - TUNE.answer_tokens - longest < 4 + WIDTH_STEP


@given(
    local=st.integers(1, 3), outer=st.integers(1, 3), data=st.sampled_from([1, 2, 4]),
    direct=st.sampled_from([0.0, 0.25, 0.5, 1.0]), attacked=st.sampled_from([0.0, 0.25, 1.0]),
)  # fmt: skip
def test_groups_have_their_shares_and_divide_over_the_mesh(local, outer, data, direct, attacked):
    tune = TuneConfig(
        local_batch=4 * local, global_batch=4 * outer, answer_tokens=3, direct_fraction=direct,
        attacked_harmless_fraction=attacked,
    )  # fmt: skip
    batch = batcher(tune, mesh=(data, 1)).batch(0)
    for name in SETS:
        sizes = [len(b.weight_B) for b in getattr(batch, name)]
        names = {text: is_attacked(text) for text, _ in texts(getattr(batch, name))}
        total = tune.local_batch if name.startswith("local") else tune.global_batch
        assert sum(sizes) == total and all(size % data == 0 for size in sizes)
        share = 1 - direct if name.endswith("safety") else attacked
        got = sum(names[text] for text, _ in texts(getattr(batch, name)))
        assert abs(got - share * total) <= data / 2
        for leaf in jax.tree.leaves(getattr(batch, name)):
            assert leaf.sharding.spec in (P("data"), P("data", None))


def test_without_attacked_harmless_requests_all_are_bare():
    batch = batcher(wrapped=[]).batch(0)
    both = [*texts(batch.local_utility), *texts(batch.global_utility)]
    assert not any(is_attacked(text) for text, _ in both)
    alone = batcher(wrapped=WRAPPED[:1]).batch(0)  # one cannot be shared out: it is global
    assert not any(is_attacked(text) for text, _ in texts(alone.local_utility))
    assert any(is_attacked(text) for text, _ in texts(alone.global_utility))


def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused():
    made = batcher()
    made.check(made.longest)
    with pytest.raises(DataError, match=rf"takes {made.longest - 3} tokens.*context of 40"):
        made.check(40)
