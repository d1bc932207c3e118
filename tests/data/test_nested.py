"""Attacks inside attacks: as many as asked for, all different ones around each other."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.data.nested import MOST_WORDS, inside, longest, nested, words
from nt_jax.data.records import AttackTemplate


def templates(count: int, length: int = 3) -> list[AttackTemplate]:
    """Short ones, each of so many words."""
    return [
        AttackTemplate(f"t{n}", f"w{n} " * (length - 1) + "{request}", ("emotion",))
        for n in range(count)
    ]


@given(st.integers(2, 40), st.integers(0, 90), st.integers(0, 50))
def test_each_is_two_or_three_different_templates_and_all_are_taken(size, count, turn):
    made, found = templates(size), nested(templates(size), count, turn)
    assert len(found) == count
    for n, attack in enumerate(found):
        outer_first = attack.id.split("+")
        assert len(set(outer_first)) == len(outer_first) == (3 if n % 2 and size > 2 else 2)
        text = "Do it."
        for name in reversed(outer_first):
            text = made[int(name[1:])].apply(text)
        assert attack.apply("Do it.") == text
    innermost = {attack.id.split("+")[-1] for attack in found}
    assert len(innermost) == min(size, count)


def test_another_turn_gives_other_attacks():
    both = [[attack.id for attack in nested(templates(9), 9, turn)] for turn in (0, 1)]
    assert not {*both[0]} & {*both[1]}


def test_no_attack_is_longer_than_the_most_words():
    found = nested(templates(6, MOST_WORDS // 2), 12)
    assert {attack.id.count("+") for attack in found} == {1}
    assert max(map(words, found)) <= MOST_WORDS
    assert {t.id.count("+") for t in nested(templates(6, MOST_WORDS // 3), 12)} == {1, 2}


def test_none_is_longer_than_the_longest():
    """Two of 51 words among ten: at turn 0, ten attacks do not hold the longest pair and third."""
    made = [*templates(10, 4)]
    for place in (1, 8):
        made[place] = dataclasses.replace(templates(10, 51)[place])
    every = [t for turn in range(20) for t in nested(made, 160, turn)]
    most = max(len(t.text) for t in every)
    (found,) = longest(made)
    assert len(found.text) >= most > max(len(t.text) for t in nested(made, 10))
    assert words(found) <= MOST_WORDS
    assert longest(made[:1]) == [] and longest(templates(3, MOST_WORDS)) == []


@pytest.mark.parametrize(
    "long", [templates(4, MOST_WORDS), [AttackTemplate("two", "{request} a {request}")] * 4]
)
def test_long_templates_and_those_of_two_slots_are_not_nested(long):
    assert nested(long, 5) == [] and nested([*long, *templates(1)], 5) == []
    assert {name for t in nested([*long, *templates(2)], 5) for name in t.id.split("+")} == {
        "t0", "t1",
    }  # fmt: skip


def test_other_braces_stay_as_they_are():
    inner = AttackTemplate("i", "{x} {request}", ("emotion",), "train")
    found = inside(inner, AttackTemplate("o", "say {y}: {request}!", ("pretending",), "train"))
    assert (found.id, found.text) == ("o+i", "say {y}: {x} {request}!")
    assert (found.types, found.split) == (("pretending",), "train")
