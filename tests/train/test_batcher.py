"""A batch is a function of seed and epoch alone, drawn from its own pool, with little padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.config.schema import TuneConfig
from nt_jax.data.packing import LENGTH_STEP
from nt_jax.train.batcher import Batcher
from nt_jax.train.objectives import over_stretches
from nt_jax.train.pools import Pair, make_pools
from tests.train.test_pools import (
    SAFETY,
    TEMPLATES,
    UTILITY,
    WRAPPED,
    encode,
    is_attacked,
)

SETS = ("local_safety", "local_utility", "global_safety", "global_utility")
TUNE = TuneConfig(epochs=14, local_batch=4, global_batch=8, answer_tokens=3)


def cost(length: int) -> float:
    return length * (1000 + length)


def batcher(tune=TUNE, seed=0, side=1, utility=UTILITY, wrapped=WRAPPED, most=512) -> Batcher:
    pools = make_pools(SAFETY, TEMPLATES, utility, wrapped, 0.25)
    made = Batcher(pools, encode, tune, seed, side)
    made.choose_shapes(most, cost)
    return made


def texts(made: Batcher, name: str, epoch: int) -> list[tuple[str, int]]:
    """(prompt, first answer token) of each row of a set."""
    return [(bytes(row.prompt).decode(), row.answer[0]) for row in made.rows(name, epoch)]


def test_rows_come_from_their_own_pool_with_their_own_answer():
    made, pools = batcher(), make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED, 0.25)
    for epoch in range(12):
        for name in SETS:
            pool, found = getattr(pools, name), texts(made, name, epoch)
            direct = {(p.request, p.answer[0]) for p in pool.direct}
            around = [t.apply for t in pool.templates] or [str]
            attacked = {(wrap(p.request), p.answer[0]) for wrap in around for p in pool.attacked}
            assert {row for row in found if is_attacked(row[0])} <= attacked
            assert {row for row in found if not is_attacked(row[0])} <= direct
            assert all(len(row.answer) == 3 for row in made.rows(name, epoch))


def test_a_batch_holds_its_rows_and_nothing_else():
    made = batcher(TUNE.model_copy(update={"margin_weight": 1.0}))
    batch = made.batch(3)
    for name in SETS:
        rows, packed = made.rows(name, 3), getattr(batch, name)
        np.testing.assert_allclose(packed.weight_BR.sum(), 1, rtol=1e-6)
        assert (packed.weight_BR > 0).sum() == len(rows)
        assert (packed.answer_BQ >= 0).sum() == sum(row.targets for row in rows)
        assert all(bool(row.declined) == (name == "global_utility") for row in rows)


def test_the_same_seed_and_epoch_give_the_same_batch():
    one, other = batcher(), batcher()
    late = [one.batch(epoch) for epoch in (5, 2, 9)]
    for epoch, batch in zip((5, 2, 9), late, strict=True):
        jax.tree.map(np.testing.assert_array_equal, other.batch(epoch), batch)
    apart = {str(texts(batcher(seed=s), "global_safety", e)) for s in (0, 1) for e in (0, 1)}
    assert len(apart) == 4


def test_a_pass_over_the_data_shows_every_request_once():
    made = batcher(TUNE.model_copy(update={"direct_fraction": 1.0}))
    pool = make_pools(SAFETY, TEMPLATES, UTILITY, WRAPPED, 0.25).local_safety.direct
    seen = [text for e in range(len(pool)) for text, _ in texts(made, "local_safety", e)]
    assert sorted(seen) == sorted([pair.request for pair in pool] * TUNE.local_batch)


def test_shapes_stay_the_same_so_that_one_program_serves_all_epochs():
    made = batcher()
    shapes = {str(jax.tree.map(np.shape, made.batch(epoch))) for epoch in range(12)}
    assert len(shapes) == 1
    assert all(shape.length % LENGTH_STEP == 0 for shape in made.shapes.values())


def test_an_epoch_that_was_not_planned_still_holds_its_rows():
    tune = TuneConfig(epochs=1, local_batch=1, global_batch=1, answer_tokens=3)
    rare = [*UTILITY, Pair("x" * 200, [1] * 3)]
    made = batcher(tune, utility=rare, wrapped=[])
    made.choose_shapes(made.longest, cost)
    drawn = [row.tokens for e in range(40) for n in SETS for row in made.rows(n, e)]
    assert max(drawn) > max(shape.length for shape in made.shapes.values())
    for epoch in range(40):
        for name in SETS:
            weight = getattr(made.batch(epoch), name).weight_BR
            assert (weight > 0).sum() == len(made.rows(name, epoch))


@pytest.mark.parametrize("rows", [16, 24])
def test_little_of_what_runs_is_padding(rows):
    mixed = [Pair("x" * n, [1] * 3) for n in (8, 16, 24, 120) for _ in range(6)]
    tune = TUNE.model_copy(update={"global_batch": rows, "local_batch": rows})
    assert batcher(tune, utility=mixed, wrapped=[]).padding(20) < 0.15


@given(
    local=st.integers(1, 9), outer=st.integers(1, 9), side=st.sampled_from([1, 2, 4]),
    direct=st.sampled_from([0.0, 0.25, 0.5, 1.0]), attacked=st.sampled_from([0.0, 0.25, 1.0]),
)  # fmt: skip
def test_sets_have_their_shares_and_divide_over_the_mesh(local, outer, side, direct, attacked):
    tune = TuneConfig(
        epochs=3, local_batch=local, global_batch=outer, answer_tokens=3, direct_fraction=direct,
        attacked_harmless_fraction=attacked,
    )  # fmt: skip
    made = batcher(tune, side=side)
    batch = made.batch(0)
    for name in SETS:
        size = local if name.startswith("local") else outer
        share = 1 - direct if name.endswith("safety") else attacked
        counts = []
        for epoch in range(4):
            found = texts(made, name, epoch)
            assert len(found) == size
            counts.append(sum(is_attacked(text) for text, _ in found))
        assert all(abs(count - share * size) < 1 for count in counts)
        assert sum(counts) == 4 * share * size  # what an epoch cannot split, the next one has
        assert getattr(batch, name).token_BT.shape[1] == side


@pytest.mark.parametrize(("size", "direct"), [(5, 0.5), (1, 0.5), (6, 0.25), (3, 1 / 3)])
def test_no_request_comes_twice_before_every_other_came_once(size, direct):
    """Also where an epoch has more attacked ones than the next."""
    shares = {"direct_fraction": direct, "attacked_harmless_fraction": 1 - direct}
    sizes = {"local_batch": size, "global_batch": size}
    made = batcher(TUNE.model_copy(update=sizes | shares))
    for name in SETS[:3:2]:
        pool = made.sets[name][0]
        for attacked, held in ((False, pool.direct), (True, pool.attacked)):
            shown = [
                answer
                for epoch in range(40)
                for text, answer in texts(made, name, epoch)
                if is_attacked(text) == attacked
            ]
            for start in range(0, len(shown) - len(held) + 1, len(held)):
                assert sorted(shown[start : start + len(held)]) == sorted(p.answer[0] for p in held)


def test_without_attacked_harmless_requests_all_are_bare():
    made = batcher(wrapped=[])
    both = [*texts(made, "local_utility", 0), *texts(made, "global_utility", 0)]
    assert not any(is_attacked(text) for text, _ in both)
    alone = batcher(wrapped=WRAPPED[:1])  # one cannot be shared out: it is global
    assert not any(is_attacked(text) for text, _ in texts(alone, "local_utility", 0))
    assert any(is_attacked(text) for text, _ in texts(alone, "global_utility", 0))


# --- the same attacks around harmful and harmless requests ---------------------------------------

# Every harmless request inside every attack; and attacks as data hold them, with answers of theirs.
AROUND = [Pair(t.apply(f"fine{n}"), [n + 1, 7], attack=t.id) for n in range(4) for t in TEMPLATES]
HELD = [
    Pair(t.apply(p.request), p.answer, about=p.request, attack=t.id)
    for p in SAFETY
    for t in TEMPLATES
]


def attacks(made: Batcher, name: str, epoch: int) -> list[str]:
    """What each attacked prompt of a set stands in."""
    found = [text for text, _ in texts(made, name, epoch) if is_attacked(text)]
    return [text.split()[0] for text in found]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(("direct", "attacked"), [(0.5, 0.5), (0.25, 0.75), (0.75, 0.25)])
def test_harmless_requests_stand_in_the_attacks_of_the_harmful_ones_beside_them(
    held, direct, attacked
):
    shares = {"direct_fraction": direct, "attacked_harmless_fraction": attacked}
    tune, around = TUNE.model_copy(update=shares), [] if held else TEMPLATES
    pools = make_pools(SAFETY, around, UTILITY, AROUND, 0.25, attacked_safety=HELD if held else ())
    made = Batcher(pools, encode, tune, 0, 1)
    seen = set()
    for epoch in range(12):
        for scope in ("local", "global"):
            harmful, harmless = (
                attacks(made, f"{scope}_{side}", epoch) for side in ("safety", "utility")
            )
            assert len(harmful) == len(harmless)
            assert harmless == harmful  # row by row, so as often as well
            seen |= set(harmless)
    assert len(seen) > len(TEMPLATES) // 2
    answers = {pair.request: pair.answer[0] for pair in (*UTILITY, *AROUND)}
    for epoch in range(12):
        for text, answer in texts(made, "global_utility", epoch):
            assert answers[text] == answer


def test_all_harmless_requests_of_an_attack_are_shown_in_the_end():
    pools = make_pools(SAFETY, TEMPLATES, UTILITY, AROUND, 0.25)
    made = Batcher(pools, encode, TUNE, 0, 1)
    shown = {text for e in range(80) for text, _ in texts(made, "global_utility", e)}
    assert {pair.request for pair in pools.global_utility.attacked} <= shown


def test_an_attack_without_harmless_requests_gets_others():
    some = [pair for pair in AROUND if pair.attack in ("1", "2")]
    made = Batcher(make_pools(SAFETY, TEMPLATES, UTILITY, some, 0.25), encode, TUNE, 0, 1)
    for epoch in range(6):
        assert set(attacks(made, "global_utility", epoch)) <= {t.text.split()[0] for t in TEMPLATES}
        assert len(attacks(made, "global_utility", epoch)) == 4


def test_padding_is_what_runs_without_being_anybodys_token():
    made = batcher(TuneConfig(epochs=6, answer_tokens=3))
    run = real = 0
    for epoch in range(6):
        batch = made.batch(epoch)
        for packed in (getattr(batch, name) for name in SETS):
            run += over_stretches(lambda part: jnp.asarray(part.part_BT.size), packed)
            real += (packed.part_BT >= 0).sum()
    assert made.padding(6) == pytest.approx(1 - real / run)
    assert f"{made.padding(6):.0%} padding" in made.plan()


@pytest.mark.parametrize("seed", range(6))
def test_prompts_of_the_lengths_that_users_have_need_little_padding(seed):
    lengths = np.random.default_rng(seed).integers(20, 160, 60)
    utility = [Pair("x" * int(n), [1] * 3) for n in lengths]
    tune = TuneConfig(epochs=8, answer_tokens=3, global_batch=24, local_batch=8)
    made = batcher(tune, utility=utility, wrapped=[], most=1024)
    assert made.padding(8) <= 0.15


@pytest.mark.parametrize("ways", [1, 2])
def test_sequences_lie_side_by_side_in_as_few_stretches_as_that_gives(ways):
    tune = TUNE.model_copy(update={"global_batch": 40})
    plain, made = batcher(tune, side=ways, most=32), batcher(tune, side=ways, most=32)
    made.choose_shapes(32, cost, beside=4)
    assert any(shape.stretches > 4 for shape in plain.shapes.values())
    for name, shape in made.shapes.items():
        before = plain.shapes[name]
        assert shape.side % ways == 0 and shape.side <= 4 * ways
        assert shape.stretches == -(-before.stretches // 4)
        fewer = shape.stretches * (shape.side - ways)  # one less on each device would not do
        assert fewer < before.stretches * before.side <= shape.stretches * shape.side
    for epoch in range(12):
        one, other = plain.batch(epoch), made.batch(epoch)
        for name in SETS:
            sets = [getattr(batch, name) for batch in (one, other)]
            weights = [np.asarray(part.weight_BR) for part in sets]
            np.testing.assert_array_equal(*(np.sort(each[each > 0]) for each in weights))
            targets = [part.target_BQ[np.asarray(part.answer_BQ) >= 0] for part in sets]
            np.testing.assert_array_equal(*(np.sort(each) for each in targets))
