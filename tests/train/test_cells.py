"""The four cells differ in the harm alone: one size, the same attacks, the same wordings."""

import collections

import pytest

from nt_jax.data.prompts import Prompt
from nt_jax.train.cells import (
    ATTACKED_HARMFUL,
    ATTACKED_HARMLESS,
    CELLS,
    HARMFUL,
    HARMLESS,
    NESTED,
    OWN,
    cell_rows,
    nested_rows,
)
from nt_jax.train.pools import Pair, make_pools, safety_rows
from tests.train.test_pools import SAFETY, TEMPLATES, UTILITY

WORDINGS = [[20], [21], [22], [23]]
# As openings are learned: few wordings, one after another.
REFUSED = [Pair(p.request, WORDINGS[n % 4]) for n, p in enumerate(SAFETY)]
WRAPPED = [
    Pair(t.apply(f"more{n}"), [n + 1, 7], attack=t.id)
    for n, t in enumerate([*TEMPLATES, *TEMPLATES])
]


def cells(count: int, wrapped=WRAPPED, repeated: float = 0.0):
    return cell_rows(make_pools(REFUSED, TEMPLATES, UTILITY, wrapped, 0.25, repeated), count)


def attacks(rows) -> collections.Counter[Prompt]:
    """How often each template is around a prompt."""
    return collections.Counter(text.split()[0] for text, _ in rows)


@pytest.mark.parametrize("count", [1, 6, 12])
def test_cells_are_of_one_size_and_each_prompt_counts_once(count):
    found = cells(count)
    assert set(found) == {*CELLS, OWN}
    assert [len(found[name]) for name in CELLS] == [count] * 4 and len(found[OWN]) == 2 * count
    for name in CELLS:
        assert len({text for text, _ in found[name]}) == count
        assert all(text.startswith("<") == name.startswith("attacked") for text, _ in found[name])


def test_the_same_attacks_are_around_harmful_and_harmless_requests():
    found = cells(99)
    both = [attacks(found[name]) for name in (ATTACKED_HARMFUL, ATTACKED_HARMLESS)]
    assert set(both[0]) == set(both[1]) == {t.text.split()[0] for t in TEMPLATES}
    assert all("harm" in text for text, _ in found[ATTACKED_HARMFUL])
    assert not any("harm" in text for text, _ in found[ATTACKED_HARMLESS])


@pytest.mark.parametrize("count", [4, 8, 12])
def test_every_cell_is_refused_in_the_same_words(count):
    """Or a wording that is likelier than another would be taken for the harm."""
    said = [sorted(ids for _, ids in rows) for name, rows in cells(count).items() if name != OWN]
    assert said == [said[0]] * 4 and len(set(map(tuple, said[0]))) > 1


def test_another_turn_asks_the_same_requests_inside_other_attacks():
    pools = make_pools(REFUSED, TEMPLATES, UTILITY, WRAPPED, 0.25)
    turns = [cell_rows(pools, 99, turn) for turn in (0, 1, 2)]
    for name in (ATTACKED_HARMFUL, ATTACKED_HARMLESS):
        asked = [{text for text, _ in found[name]} for found in turns]
        assert not asked[1] & asked[2] and not asked[0] & asked[1]
        about = [{text.split()[1] for text in each} for each in asked[1:]]
        assert about[0] == about[1]  # the requests
    assert [found[HARMFUL] for found in turns] == [turns[0][HARMFUL]] * 3
    bare = {pair.request for pair in UTILITY}
    assert {text.split()[1] for text, _ in turns[1][ATTACKED_HARMLESS]} <= bare


@pytest.mark.parametrize("count", [3, 6])
def test_turns_ask_every_request_where_there_are_more_than_are_asked(count):
    """Else most of a long list of harmful requests would never be learned from."""
    pools = make_pools(REFUSED, TEMPLATES, UTILITY, WRAPPED, 0.25)
    for name in CELLS:
        few = [cell_rows(pools, count, turn + 1)[name] for turn in range(9)]
        assert {len(rows) for rows in few} == {count}
        words = [word for rows in few for text, _ in rows for word in text.split()]
        found = {word for word in words if "<" not in word}
        every = UTILITY if name in (HARMLESS, ATTACKED_HARMLESS) else REFUSED
        assert found == {pair.request for pair in every}, name


def test_turns_share_no_request_while_there_are_others():
    pools = make_pools(REFUSED, TEMPLATES, UTILITY, WRAPPED, 0.25)
    asked = [text for turn in range(4) for text, _ in cell_rows(pools, 5, turn)[HARMFUL]]
    assert len(asked) == 20 == len(set(asked)) < len(REFUSED)


def test_the_own_answers_are_those_of_the_harmless_prompts():
    found = cells(9)
    own = {p.request: p.answer for p in (*UTILITY, *WRAPPED)}
    asked = [text for name in (ATTACKED_HARMLESS, HARMLESS) for text, _ in found[name]]
    assert found[OWN] == [(text, own[text]) for text in asked]
    refused = {p.request: p.answer for p in REFUSED}
    assert found[HARMFUL] == [(text, refused[text]) for text, _ in found[HARMFUL]]


def test_a_request_that_pools_repeat_counts_once():
    hard = [Pair(p.request, p.answer, sounds_harmful=n % 9 == 0) for n, p in enumerate(UTILITY)]
    pools = make_pools(REFUSED, TEMPLATES, hard, WRAPPED, 0.25, sounds_harmful_share=0.8)
    repeated = [p.request for p in pools.global_utility.direct]
    assert len(set(repeated)) < len(repeated)
    asked = [text for text, _ in cell_rows(pools, 99)[HARMLESS]]
    assert sorted(asked) == sorted(p.request for p in UTILITY)


def test_without_attacked_harmless_prompts_that_cell_is_empty():
    found = cells(5, wrapped=[])
    assert found[ATTACKED_HARMLESS] == [] and len(found[HARMLESS]) == len(found[OWN]) == 5

    later = cell_rows(make_pools(REFUSED, TEMPLATES, UTILITY, [], 0.25), 5, turn=1)
    assert later[ATTACKED_HARMLESS] == []  # none were asked for in any other attack either


@pytest.mark.parametrize("turn", [0, 1])
def test_records_without_an_attack_of_theirs_are_bare_alone(turn):
    """Or a bare prompt would be asked to be refused as one inside an attack."""
    held = [Pair(f"<own> {p.request}", p.answer, about=p.request, attack=f"a{n % 4}")
            for n, p in enumerate(REFUSED) if n % 3]  # fmt: skip
    pools = make_pools(REFUSED, [], UTILITY, WRAPPED, 0.25, attacked_safety=held)
    found = cell_rows(pools, 99, turn)
    assert {text for text, _ in found[ATTACKED_HARMFUL]} == {p.request for p in held}
    assert {text for text, _ in found[HARMFUL]} == {p.request for p in REFUSED}
    rows = safety_rows(pools, 99, 0.0)
    bare = {p.request for n, p in enumerate(REFUSED) if not n % 3}
    assert {text for text, _ in rows} == {p.request for p in held} | bare


@pytest.mark.parametrize("turn", [0, 3])
def test_nested_prompts_stand_in_attacks_of_their_own_set(turn):
    pools = make_pools(REFUSED, TEMPLATES, UTILITY, WRAPPED, 0.25)
    found = nested_rows(pools, 12, turn)
    assert [*found] == [*NESTED] and [len(rows) for rows in found.values()] == [12, 12]
    sides = [(pools.local_safety, pools.local_utility), (pools.global_safety, pools.global_utility)]
    for name, rows in found.items():
        for text, _ in rows:
            mine = [
                s for s, u in sides for p in (*s.direct, *u.direct) if f"> {p.request} <" in text
            ]
            around = {t.text.split()[0] for t in mine[0].templates}
            tags = [word for word in text.split() if word.startswith("<") and word[1] != "/"]
            assert len(mine) == 1 and len(tags) in (2, 3) and set(tags) <= around
            assert ("harm" in text) == (name == NESTED[0])
    answers = {name: [ids for _, ids in rows] for name, rows in found.items()}
    assert answers[NESTED[0]] == answers[NESTED[1]]  # the same words in both
    asked = [{text for text, _ in nested_rows(pools, 12, turn + 1)[name]} for name in NESTED]
    assert not asked[0] & {text for text, _ in found[NESTED[0]]}


def test_without_templates_nothing_is_nested():
    held = [Pair(f"<own> {p.request}", p.answer, about=p.request, attack=f"a{n % 4}")
            for n, p in enumerate(REFUSED)]  # fmt: skip
    pools = make_pools(REFUSED, [], UTILITY, WRAPPED, 0.25, attacked_safety=held)
    assert nested_rows(pools, 9) == {}
