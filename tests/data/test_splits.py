"""Training and validation rows: a source's own division, or one by a hash of the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.data.records import AttackTemplate, HarmlessRequest
from nt_jax.data.sources import load_harmful, load_harmless, load_templates
from nt_jax.data.splits import VALIDATION_PERCENT, divide
from nt_jax.errors import DataError


def rows(count: int, split: str | None = None, first: int = 0) -> list[HarmlessRequest]:
    return [
        HarmlessRequest(f"r{n}", f"What is {n}?", None, False, split=split)
        for n in range(first, first + count)
    ]


def ids(records) -> list[str]:
    return [record.id for record in records]


@given(st.integers(60, 200), st.sampled_from([None, "train", "330k_train"]))
def test_an_undivided_source_is_cut_in_two(count, split):
    records = rows(count, split)
    train, validation = divide(records, "train", "x"), divide(records, "validation", "x")
    assert sorted(ids(train) + ids(validation)) == sorted(ids(records))
    assert 0 < len(validation) < len(train)


def test_the_share_for_validation_is_what_it_says():
    share = len(divide(rows(4000), "validation", "x")) / 4000
    assert share == pytest.approx(VALIDATION_PERCENT / 100, abs=0.02)


@given(st.lists(st.integers(), min_size=2, max_size=30, unique=True))
def test_few_rows_leave_at_least_one_for_validation(numbers):
    records = [HarmlessRequest(f"r{n}", f"What is {n}?") for n in numbers]
    assert len(divide(records, "validation", "x")) >= 1


def test_a_new_row_moves_no_other_row_across():
    before, after = (set(ids(divide(rows(n), "validation", "x"))) for n in (80, 160))
    assert before == {name for name in after if int(name[1:]) < 80}


def test_a_source_keeps_its_own_splits():
    records = rows(5, "train") + rows(2, "validation", 5) + rows(3, "test", 7)
    assert ids(divide(records, "train", "x")) == ["r0", "r1", "r2", "r3", "r4"]
    assert ids(divide(records, "validation", "x")) == ["r5", "r6"]


@pytest.mark.parametrize("other", ["val", "Valid", "dev ", "VALIDATION"])
def test_splits_have_their_usual_other_names(other):
    records = rows(40, "Train") + rows(8, other, 40) + rows(5, "test", 48)
    assert ids(divide(records, "train", "x")) == ids(records[:40])
    assert ids(divide(records, "validation", "x")) == ids(records[40:48])


def test_without_validation_rows_the_training_rows_are_cut_and_no_test_row_is_used():
    records = rows(100, "train") + rows(50, "test", 100)
    found = divide(records, "train", "x") + divide(records, "validation", "x")
    assert sorted(ids(found)) == sorted(ids(rows(100)))


def test_templates_are_divided_by_their_text():
    templates = [AttackTemplate(f"t{n}", f"{n}: {{request}}", ()) for n in range(90)]
    other_ids = [AttackTemplate(f"x{t.id}", t.text, t.types) for t in templates]
    one, other = (divide(records, "validation", "templates") for records in (templates, other_ids))
    assert one and [t.text for t in one] == [t.text for t in other]


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (rows(1), r"data.harmless: none of its 1 rows is for (train|validation)\. Give more rows"),
        (
            rows(9, "old") + rows(9, "new", 9),
            "no split is called train. Name the one to tune on, of new, old: data.harmless.split=",
        ),
        (rows(9, "train") + rows(3, None, 9), "harmless: 3 of its 12 rows name no split, the oth"),
        (rows(9, "train") + rows(9, "val", 9) + rows(1, " ", 18), "1 of its 19 rows name no split"),
    ],
)
def test_what_cannot_be_divided_says_what_to_do(records, words):
    with pytest.raises(DataError, match=words):
        for part in ("train", "validation"):
            divide(records, part, "harmless")


@pytest.mark.parametrize("load", [load_harmful, load_harmless, load_templates])
def test_a_limit_counts_per_split_so_that_none_is_lost(load):
    records = load(limit=4)
    for part in ("train", "validation"):
        found = divide(records, part, "x")
        assert len(found) == 4
        assert ids(found) == ids(divide(load(), part, "x"))[:4]
