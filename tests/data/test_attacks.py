"""Attacks that records hold: their templates, and parts that share neither attack nor request."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.config.schema import DataConfig
from nt_jax.data.attacks import (
    attack_of,
    derived_templates,
    divide_attacked,
    few_requests,
)
from nt_jax.data.records import HarmfulRequest
from nt_jax.data.training import read_records, without_tests
from nt_jax.errors import DataError
from tests.data import safe_edit


def row(request: int, attack: str, split: str | None = None, name: bool = True) -> HarmfulRequest:
    text = f"<{attack}> ask {request} </{attack}>"
    called = attack if name else ""
    return HarmfulRequest(
        f"{request}-{attack}", f"ask {request}", None, "", split, text, ("pretending",), called
    )


def grid(requests: int, attacks: int, **changes) -> list[HarmfulRequest]:
    return [row(q, f"a{n}", **changes) for q in range(requests) for n in range(attacks)]


def sides(rows):
    attacks = {attack_of(row) for row in rows if row.attacked}
    return attacks, {row.request for row in rows}


def test_a_template_is_the_attack_with_a_slot_for_its_request():
    rows = [row(0, "a"), row(1, "a"), row(0, "b"), HarmfulRequest("x", "ask", attacked="reworded")]
    found = derived_templates(rows)
    assert [(t.id, t.text, t.types) for t in found] == [
        ("a", "<a> {request} </a>", ("pretending",)),
        ("b", "<b> {request} </b>", ("pretending",)),
    ]
    assert all(
        t.apply(r.request) == r.attacked for t, r in zip(found, (rows[0], rows[2]), strict=True)
    )


def test_an_attack_without_a_name_is_named_by_its_text():
    one, other, third = (row(q, a, name=False) for q, a in ((0, "a"), (1, "a"), (1, "b")))
    assert attack_of(one) == attack_of(other) != attack_of(third)


links = st.lists(st.tuples(st.sampled_from("pqrst"), st.sampled_from("ABCD")), max_size=30)


@given(links, st.sets(st.sampled_from("ABCD")), st.sets(st.sampled_from("pqrstu")))
def test_a_request_goes_where_its_attacks_are_or_where_it_is_drawn(links, attacks, drawn):
    few = few_requests(links, attacks, drawn)
    for request in "pqrstu":
        mine = {attack for name, attack in links if name == request}
        if mine and mine <= attacks:
            assert request in few
        elif mine and not mine & attacks:
            assert request not in few
        else:
            assert (request in few) == (request in drawn)


@given(st.integers(4, 30), st.integers(2, 12), st.booleans())
def test_undivided_records_share_neither_attacks_nor_requests_between_their_parts(q, a, name):
    parts = divide_attacked(grid(q, a, name=name))
    attacks, requests = zip(*map(sides, parts.values()), strict=True)
    assert not attacks[0] & attacks[1] and not requests[0] & requests[1]
    kept = {row.id for rows in parts.values() for row in rows}
    held, drawn = len(attacks[1]), len(requests[1])
    expected = (
        (q - drawn) * (a - held) + drawn * held if drawn else q * (a - max(1, -(-a * 15 // 100)))
    )
    assert len(kept) == expected  # all but the cross


def test_no_row_is_lost_where_each_request_has_one_attack():
    rows = [row(n, f"a{n % 7}") for n in range(70)]
    assert sum(map(len, divide_attacked(rows).values())) == 70


def test_published_splits_are_kept_where_they_share_nothing_and_cut_anew_where_they_do():
    rows = [*grid(6, 3, split="train"), row(9, "z", "validation"), row(8, "y", "test")]
    parts = divide_attacked(rows)
    assert parts == {"train": rows[:18], "validation": [rows[18]]}
    mixed = [*grid(30, 5, split="train"), row(40, "a1", "validation")]
    parts = divide_attacked(mixed)
    attacks, requests = zip(*map(sides, parts.values()), strict=True)
    assert not attacks[0] & attacks[1] and not requests[0] & requests[1]


def test_a_row_without_a_split_beside_others_is_told_here_too():
    with pytest.raises(DataError, match=r"data\.harmful: 1 of its 8 rows name no split"):
        divide_attacked([*grid(6, 1, split="train"), row(9, "z", "validation"), row(8, "y")])


# ---- as a run reads them


def safe_edit_data(tmp_path, **changes) -> DataConfig:
    folder = str(safe_edit.write(tmp_path / "SafeEdit"))
    return DataConfig.model_validate(
        {"harmful": {"source": folder}, "harmless": {"source": folder}, **changes}
    )


def test_safe_edits_attacks_are_learned_from_as_they_are(tmp_path):
    parts = read_records(safe_edit_data(tmp_path))
    for part, (attacks, first, last) in (
        ("train", safe_edit.SPLITS["train"]), ("validation", safe_edit.SPLITS["val"])
    ):  # fmt: skip
        records = parts[part]
        asked = [safe_edit.question(n) for n in range(first, last)]
        assert [row.request for row in records.harmful] == asked
        assert len(records.paired) == len(asked) * len(attacks)
        assert {t.id: t.text for t in records.templates} == {
            name: text.replace("{q}", "{request}") for name, (_, text) in attacks.items()
        }
        assert records.added_templates == []
        under = records.under_attack(asked)
        assert set(under) <= {row.attacked for row in records.paired}
        assert all(text in prompt for text, prompt in zip(asked, under, strict=True))


@pytest.mark.parametrize(
    ("choice", "paired", "own"),
    [("records", True, 0), ("templates", False, 99), ("both", True, 99)],
)
def test_attacks_come_from_where_they_are_asked_for(tmp_path, choice, paired, own):
    train = read_records(safe_edit_data(tmp_path, attacks=choice))["train"]
    assert bool(train.paired) == paired and len(train.added_templates) == own
    assert len({row.request for row in train.harmful}) == len(train.harmful) == 12


def test_the_demo_has_no_attacks_of_its_own():
    assert read_records() == read_records(DataConfig(attacks="templates"))
    with pytest.raises(
        DataError, match=r"data\.attacks=records: for train, .* 0 requests"
    ) as error:
        read_records(DataConfig(attacks="records"))
    assert "data.attacks=templates" in str(error.value) and "\n" not in str(error.value)


def test_attacks_that_a_test_set_uses_are_left_out_on_demand(tmp_path):
    parts = read_records(safe_edit_data(tmp_path))
    boss = next(t for t in parts["train"].templates if t.id == "Boss")
    left, rows, attacks = without_tests(parts, [], ["actor"], [boss.text.upper()])
    assert (rows, attacks) == (0, 2)
    gone = {t.id for t in parts["train"].templates} - {t.id for t in left["train"].templates}
    assert gone == {"Actor", "Boss"}
    assert not gone & {attack_of(row) for row in left["train"].paired}
    assert left["validation"] == parts["validation"]


def test_an_attack_without_a_template_is_left_out_by_its_name(tmp_path):
    parts = read_records(safe_edit_data(tmp_path))
    reworded = HarmfulRequest("x", "ask", "No.", attacked="in other words", attack="Reworded")
    more = dataclasses.replace(parts["train"], paired=[*parts["train"].paired, reworded])
    left, _, attacks = without_tests(parts | {"train": more}, [], ["reworded"], [])
    assert attacks == 1 and left["train"].paired == parts["train"].paired


def test_a_request_in_other_capitals_stays_on_one_side(tmp_path):
    folder = safe_edit.write(tmp_path / "SafeEdit")
    rows = json.loads((folder / "SafeEdit_train.json").read_text())
    for place, line in enumerate(rows):
        if place % 2:
            shouted = line["question"].upper()
            asked = line["adversarial prompt"].replace(line["question"], shouted)
            line |= {"question": shouted, "adversarial prompt": asked}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    parts = read_records(DataConfig(harmful={"source": str(tmp_path / "rows.json")}))
    one, other = ({row.request.lower() for row in parts[p].paired} for p in parts)
    assert one and other and not one & other


def test_requests_that_a_test_set_asks_are_left_out_on_demand(tmp_path):
    parts = read_records(safe_edit_data(tmp_path))
    asked = [safe_edit.question(0).upper(), parts["train"].harmless[0].request]
    left, count, _ = without_tests(parts, asked, (), ())
    assert count == 2 and len(left["train"].harmful) == 11
    assert not {safe_edit.question(0)} & {row.request for row in left["train"].paired}
    assert len(left["train"].paired) == 11 * len(safe_edit.TRAIN)
    every = [row.request for row in parts["validation"].harmful]
    with pytest.raises(DataError, match=r"data\.harmful: test sets ask all rows for validation"):
        without_tests(parts, every, (), ())
    same, count, _ = without_tests(parts, [], (), ())
    assert count == 0 and same == {k: dataclasses.replace(v) for k, v in parts.items()}
