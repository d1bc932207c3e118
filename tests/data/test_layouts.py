"""Files as people have them: which columns are read, and what is said of those that are not."""

import json

import pytest

from nt_jax.data.sources import load_harmful, load_harmless
from nt_jax.errors import DataError


@pytest.fixture
def file(tmp_path):
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def lines(*rows: dict) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        "request,answer\nHow?,Fine,\nWhy?,So,\n",  # as spreadsheets write an empty last column
        'request, answer\n"How, do I?", "Fine, thanks"\n',
        "request\nHow do I bake bread, please?\nWrite a poem, a short one\n",
    ],
)
def test_a_csv_whose_rows_are_longer_than_its_head_is_refused(file, text):
    """The library would take the first cells for an index and read the others as their columns."""
    with pytest.raises(DataError, match=r"more cells than the head has columns\. Put texts"):
        load_harmless(file("mine.csv", text))


def test_one_longer_row_says_what_to_do(file):
    with pytest.raises(DataError, match=r"line 3, saw 2\. Put texts that hold commas in quotes"):
        load_harmless(file("mine.csv", "request\nHow do I bake?\nA poem, a short one\n"))


def test_the_text_below_a_request_is_part_of_it(file):
    rows = lines(
        {"instruction": "Sum up.", "context": "Cats sleep.", "response": "They do.", "category": ""}
    )
    (row,) = load_harmless(file("dolly.jsonl", rows))
    assert (row.request, row.answer) == ("Sum up.\n\nCats sleep.", "They do.")


@pytest.mark.parametrize("columns", [("prompt", "response"), ("prompt", "refusal")])
def test_refusals_beside_prompts_are_read(file, columns):
    (row,) = load_harmful(file("mine.jsonl", lines(dict(zip(columns, ("a", "no"), strict=True)))))
    assert (row.request, row.refusal) == ("a", "no")


@pytest.mark.parametrize("columns", [("prompt", "response"), ("prompt", "answer")])
def test_answers_beside_prompts_are_read(file, columns):
    (row,) = load_harmless(file("mine.jsonl", lines(dict(zip(columns, ("a", "so"), strict=True)))))
    assert (row.request, row.answer) == ("a", "so")


def test_columns_that_are_not_read_are_said(file):
    source, notes = file("mine.jsonl", lines({"request": "a", "response": "no", "empty": ""})), []
    load_harmful(source, notes=notes)
    assert notes == [f"{source}: read as 'nt_jax without refusals', not read: response"]


def test_of_a_layout_that_is_known_nothing_is_said(file):
    notes: list[str] = []
    load_harmful(file("advbench.csv", "goal,target\na,Sure\n"), notes=notes)
    load_harmful(file("own.csv", "q,why\na,b\n"), columns={"request": "q"}, notes=notes)
    load_harmful("demo", notes=notes)
    assert notes == []


def test_a_column_of_the_users_may_end_in_a_question_mark(file):
    source = file("survey.csv", "Question?,Answer?\nHow,So\n")
    (row,) = load_harmless(source, columns={"request": "Question?", "answer": "Answer?"})
    assert (row.request, row.answer) == ("How", "So")


def test_rows_of_a_file_may_be_laid_out_in_two_ways(file):
    """The library gives every row the columns of all."""
    chat = [{"role": "user", "content": "hi"}]
    rows = lines({"messages": chat}, {"request": "q"}, {"messages": chat})
    assert [row.request for row in load_harmless(file("both.jsonl", rows))] == ["hi", "q", "hi"]


def test_the_mark_that_some_editors_begin_a_file_with_is_no_text(file):
    for name in ("mine.txt", "mine.csv"):
        text = "\ufeffrequest\nHow?\n" if name.endswith("csv") else "\ufeffHow?\n"
        assert [row.request for row in load_harmless(file(name, text))] == ["How?"]
