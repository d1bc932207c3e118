"""Tables of other hands: cut by semicolons, typed late, with chats in cells, ids counted twice."""

import json

import pytest

from nt_jax.data.sources import load_choices, load_harmful, load_harmless
from nt_jax.errors import DataError


@pytest.fixture
def file(tmp_path):
    def make(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return make


# --- types are not told by the first rows --------------------------------------------------------


def test_a_column_of_a_csv_may_be_filled_late(file):
    """`datasets` gives columns their types by 10,000 rows, unless it is told them."""
    rows = [f"{n},request {n},{'No.' * (n > 10_010)}" for n in range(10_020)]
    last = load_harmful(file("late.csv", "\n".join(["id,request,refusal", *rows])))[-1]
    assert (last.id, last.refusal) == ("10019", "No.")


@pytest.mark.parametrize("early", [{"refusal": None}, {}], ids=["null", "no key"])
def test_a_key_of_a_jsonl_may_be_filled_late(file, early):
    """And by 10 MB of JSON, which these lines are more than."""
    lines = [json.dumps({"request": f"{n} " + "x" * 20_000} | early) for n in range(700)]
    lines += [json.dumps({"request": "last", "refusal": "No."})]
    last = load_harmful(file("late.jsonl", "\n".join(lines)))[-1]
    assert (last.request, last.refusal) == ("last", "No.")


# --- columns named by the user -------------------------------------------------------------------


def test_of_named_columns_only_the_request_must_be_filled(file):
    source = file("survey.csv", "frage,antwort\nfoo,No.\nbar,\n")
    rows = load_harmful(source, columns={"request": "frage", "refusal": "antwort"})
    assert [row.refusal for row in rows] == ["No.", None]


def test_a_named_column_that_is_nowhere_filled_is_an_error(file):
    source = file("survey.csv", "frage,antwort\nfoo,\n")
    for column in ("antwort", "answer"):
        with pytest.raises(DataError, match=f"no row has anything in '{column}'. Name one of: fra"):
            load_harmful(source, columns={"request": "frage", "refusal": column})


def test_a_named_request_that_is_blank_is_an_error(file):
    source = file("survey.csv", "frage,antwort\nfoo,No.\n,No.\n")
    with pytest.raises(DataError, match="row 2: 'frage' is missing or empty"):
        load_harmful(source, columns={"request": "frage", "refusal": "antwort"})


# --- conversations in cells ----------------------------------------------------------------------

CHAT = [
    {"role": "user", "content": "Who wrote Faust?"},
    {"role": "assistant", "content": 'Goethe, in the "Sturm und Drang".'},
    {"role": "user", "content": "When?"},
]


@pytest.mark.parametrize("written", [json.dumps, str], ids=["JSON", "pandas"])
def test_a_conversation_in_a_cell_is_one(file, written):
    cell = written(CHAT).replace('"', '""')
    (row,) = load_harmless(file("chats.csv", f'messages\n"{cell}"\n'))
    assert row.request == "When?" and [role for role, _ in row.before] == ["user", "assistant"]


def test_a_conversation_that_cannot_be_read_is_no_text(file):
    cell = "[{'role': 'user', 'content': 'a'}\n {'role': 'user', 'content': 'b'}]"  # as numpy says
    with pytest.raises(DataError, match="row 1: 'messages' looks like a list of messages"):
        load_harmless(file("chats.csv", f'messages\n"{cell}"\n'))
    (row,) = load_harmless(file("chats.csv", f'request\n"{cell}"\n'))  # it may be asked about
    assert row.request == cell


def test_a_text_that_spells_messages_is_a_text_where_lists_can_be_written(file):
    text = json.dumps(CHAT[:2])  # it ends with the assistant's
    source = file("a.jsonl", json.dumps({"request": "r", "refusal": "No.", "attacked": text}))
    (row,) = load_harmful(source)
    assert row.attacked == text


def test_a_request_about_a_list_is_a_text(file):
    (row,) = load_harmless(file("a.txt", "[1, 2] and [{'role': 'user'}]: which is longer?"))
    assert row.request.startswith("[1, 2]")


# --- words for what is no CSV with commas --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "request;refusal\nfoo;No.\n", "cells are parted by semicolons"),
        ("a.csv", "request;refusal\nfoo, bar;No.\n", "cells are parted by semicolons"),
        ("a.csv", "request\trefusal\nfoo\tNo.\n", "cells are parted by tabs"),
        ("a.tsv", "request\trefusal\nfoo\tNo.\n", "Save tables with tabs as CSV"),
    ],
)
def test_other_marks_between_cells_are_told(file, name, text, said):
    with pytest.raises(DataError, match=said):
        load_harmful(file(name, text))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("code", ["utf-16", "utf-16-be"])
def test_json_in_utf_16_is_told(tmp_path, name, code):
    mark = "\ufeff" * (code == "utf-16-be")
    (tmp_path / name).write_bytes((mark + '{"request": "a"}').encode(code))
    with pytest.raises(DataError, match=r"it is UTF-16\. Save it as UTF-8\."):
        load_harmful(str(tmp_path / name))


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    (tmp_path / "a.csv").symlink_to("gone.csv")
    with pytest.raises(DataError, match=r"It is a link to gone\.csv, which is not there\."):
        load_harmful(str(tmp_path / "a.csv"))


# --- folders -------------------------------------------------------------------------------------


def question(word: str) -> str:
    return json.dumps({"question": word, "choices": ["a", "b"], "answer": 0})


@pytest.mark.parametrize("other", [(), ("validation",)], ids=["dev alone", "both"])
def test_a_folder_of_mmlu_has_its_dev(file, tmp_path, other):
    for split in ("dev", "test", *other):
        file(f"mmlu/{split}.jsonl", question(split))
    for split in ("dev", "test", *other):
        (row,) = load_choices(str(tmp_path / "mmlu"), split)
        assert row.request == split


def test_ids_that_each_file_counts_from_one_are_told_apart(file, tmp_path):
    for split in ("train", "test"):
        file(f"two/{split}.csv", f"id,request\n1,{split} a\n2,{split} b\n")
    found = {row.id: row.request for row in load_harmless(str(tmp_path / "two"))}
    assert found == {"1": "train a", "2": "train b", "test-1": "test a", "test-2": "test b"}
    file("two/train/x.csv", "id,request\n1,c\n")  # another file of that split
    (tmp_path / "two" / "train.csv").rename(tmp_path / "two" / "train" / "y.csv")
    file("two/train/z.csv", "id,request\n1,d\n")
    ids = [row.id for row in load_harmless(str(tmp_path / "two"), "train")]
    assert ids == ["1", "train-1", "2", "z-1"]
    file("two/train/z.csv", "id,request\n1,d\n1,e\n")
    with pytest.raises(DataError, match=r"z\.csv: row 2: id '1' is also that of .*z\.csv: row 1"):
        load_harmless(str(tmp_path / "two"), "train")


def test_a_snapshot_of_the_hub_is_a_folder_of_links_to_its_blobs(file, tmp_path):
    blob = file("datasets--a--b/blobs/1f", '{"request": "mine"}')
    file("datasets--a--b/elsewhere/train.jsonl", '{"request": "not mine"}')
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / "f00"
    (snapshot / "all").mkdir(parents=True)  # a config, as MMLU has
    (snapshot / "all" / "dev-00000-of-00001.jsonl").symlink_to("../../../blobs/1f")
    assert [row.request for row in load_harmless(str(snapshot / "all"))] == ["mine"]
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "data" / "train-00000-of-00001.jsonl").symlink_to("../../../blobs/1f")
    assert blob and [row.request for row in load_harmless(str(snapshot))] == ["mine"]
    (snapshot / "data" / "test.jsonl").symlink_to("../../../elsewhere/train.jsonl")
    with pytest.raises(DataError, match="leads out of the folder"):
        load_harmless(str(snapshot))


# --- what is said of a layout --------------------------------------------------------------------


def test_a_layout_of_what_only_sounds_harmful_is_told(file):
    notes: list[str] = []
    source = file("mine.csv", "prompt,category\nHow do I bake bread?,cooking\n")
    (row,) = load_harmless(source, notes=notes)
    assert row.sounds_harmful
    assert notes == [f"{source}: read as 'OR-Bench': all of it only sounds harmful"]
