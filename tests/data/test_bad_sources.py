"""Sources that cannot be read: one error each, naming file, row and field."""

import os
import socket
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nt_jax.data import hub
from nt_jax.data.sources import load_harmful, load_harmless, load_templates
from tests.data.files import write


def test_unknown_columns_name_the_nearest_layout(tmp_path, error_of):
    source = write(tmp_path / "x.csv", [{"gaol": "g", "target": "t"}])
    message = error_of(load_harmful, source)
    assert f"{source}: no known layout" in message
    assert "gaol, target" in message and "Nearest is AdvBench (goal, target)" in message
    assert "StrongREJECT (forbidden_prompt)" in message


def test_bad_rows_are_listed_by_line_and_field(tmp_path, error_of):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"request": "a", "refusal": "no"}\n\n{"refusal": "n"}\n{"request": " ", "refusal": "n"}\n'
    )
    lines = error_of(load_harmful, str(path)).split("\n")
    assert lines[0] == f"{path}:3: 'request' is missing or empty"
    assert lines[1] == f"{path}:4: 'request' is missing or empty"
    assert lines[2].startswith("Correct these rows")


def test_a_row_of_ours_may_lack_its_refusal(tmp_path):
    """As docs/data.md has it: what learns the data's own refusals leaves such rows out."""
    path = tmp_path / "x.csv"
    path.write_text("request,refusal\nfoo,No.\nbar,\n")
    assert [row.refusal for row in load_harmful(str(path))] == ["No.", None]


def test_a_column_may_have_a_dot_in_its_name_and_a_flag_may_be_left_empty(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("Prompt.text\nfoo\n")
    (row,) = load_harmless(str(path), columns={"request": "prompt.text"})
    assert row.request == "foo"
    path = tmp_path / "x.jsonl"
    path.write_text('{"request": "foo", "sounds_harmful": ""}\n')
    (row,) = load_harmless(str(path))
    assert row.sounds_harmful is False


def test_a_field_of_another_type_is_named(tmp_path, error_of):
    path = tmp_path / "x.jsonl"
    path.write_text('{"request": "a"}\n{"request": 12}\n{"request": ["b"]}\n')
    lines = error_of(load_harmless, str(path)).split("\n")
    assert lines[0] == f"{path}:2: 'request' is int, not text"
    assert lines[1] == f"{path}:3: 'request' is list, not text"
    path.write_text('{"request": "a"}\n\n{"request": 12}\n')
    assert f"{path}:2: blank line" in error_of(load_harmless, str(path))


def test_bad_rows_of_a_csv_are_named_by_row(tmp_path, error_of):
    source = write(tmp_path / "x.csv", [{"prompt": "p", "response": "r"}, {"prompt": "q"}])
    assert f"{source}: row 2: 'response' is missing" in error_of(load_harmful, source)


def test_many_bad_rows_are_cut_short(tmp_path, error_of):
    rows = [{"request": "", "refusal": "a"}] * 30
    message = error_of(load_harmful, write(tmp_path / "x.json", rows))
    assert "and 20 more" in message and len(message.splitlines()) == 12


def test_a_doubled_id_names_both_rows(tmp_path, error_of):
    source = write(tmp_path / "x.jsonl", [{"id": "a", "request": "one"}] * 2)
    assert f"{source}:2: id 'a' is also that of {source}:1" in error_of(load_harmless, source)


def test_a_broken_json_line_is_named(tmp_path, error_of):
    path = tmp_path / "x.jsonl"
    path.write_text('{"request": "a"}\n{"request": "b"\n')
    assert f"{path}:2: not valid JSON" in error_of(load_harmless, str(path))


@pytest.mark.parametrize(
    ("name", "content"),
    [("x.jsonl", ""), ("x.jsonl", "\n \n"), ("x.csv", "request\n"), ("x.json", "[]")],
)
def test_an_empty_data_set_is_an_error(tmp_path, error_of, name, content):
    (tmp_path / name).write_text(content)
    message = error_of(load_harmless, str(tmp_path / name))
    assert str(tmp_path / name) in message and "empty" in message


def test_a_parquet_page_that_misses_its_checksum_is_refused(tmp_path, error_of):
    rows = {"request": ["What is 1?", "What is 2?"], "answer": ["It is 1.", "It is 2."]}
    path, plain = tmp_path / "rows.parquet", {"compression": "none", "write_statistics": False}
    pq.write_table(pa.table(rows), path, write_page_checksum=True, **plain)
    assert len(load_harmless(str(path))) == 2
    path.write_bytes(path.read_bytes().replace(b"It is 1.", b"It is 7.", 1))
    assert "checksum" in error_of(load_harmless, str(path))


def test_an_empty_directory_is_an_error(tmp_path, error_of):
    assert f"{tmp_path}: cannot be read as data" in error_of(load_harmless, str(tmp_path))


@pytest.mark.parametrize("name", ["x.parquet", "x.json"])
def test_a_file_that_is_not_what_its_name_says(tmp_path, error_of, name):
    (tmp_path / name).write_bytes(b"\x00\x01 not data")
    message = error_of(load_harmless, str(tmp_path / name))
    assert f"{tmp_path / name}: cannot be read as data" in message and "\n" not in message


def test_an_unknown_suffix_lists_the_known_ones(tmp_path, error_of):
    (tmp_path / "x.xlsx").write_text("a")
    assert "*.jsonl, *.json, *.csv, *.parquet, *.txt" in error_of(
        load_harmless, str(tmp_path / "x.xlsx")
    )


def test_a_missing_file_names_its_neighbour(tmp_path, error_of):
    write(tmp_path / "harmful.jsonl", [{"request": "a"}])
    message = error_of(load_harmful, str(tmp_path / "harmfull.jsonl"))
    assert f"Did you mean {tmp_path / 'harmful.jsonl'}?" in message
    assert "does not exist either" in error_of(load_harmful, str(tmp_path / "no" / "x.csv"))


def test_splits_that_are_not_there(tmp_path, error_of):
    divided = write(tmp_path / "a.jsonl", [{"request": "a", "split": "train"}])
    assert "no split 'test'; it has train" in error_of(load_harmless, divided, split="test")
    plain = write(tmp_path / "b.jsonl", [{"request": "a"}])
    assert "the rows are not divided" in error_of(load_harmless, plain, split="train")
    assert "limit is 0" in error_of(load_harmless, plain, limit=0)


def test_template_errors(tmp_path, error_of):
    source = write(tmp_path / "a.jsonl", [{"text": "a {request}"}, {"text": "b"}])
    assert f"{source}:2: 'text' has no slot" in error_of(load_templates, source)
    source = write(tmp_path / "b.jsonl", [{"text": "a"}])
    assert "no column holds {request} or [INSERT PROMPT HERE]" in error_of(load_templates, source)
    source = write(tmp_path / "c.jsonl", [{"text": "{request}", "types": ["emotoin"]}])
    assert "names 'emotoin'; the types are pretending" in error_of(load_templates, source)


def test_a_hub_out_of_reach_is_one_error(monkeypatch, error_of):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "getproxies", dict)

    def refuse(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", refuse)
    message = error_of(load_harmful, "someone/something")
    assert "cannot reach the hub at huggingface.co" in message and "HF_HUB_OFFLINE=1" in message


def test_offline_without_a_cached_copy_is_one_error():
    code = "from nt_jax.data.sources import load_harmful; load_harmful('someone/something:a')"
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120
    )
    assert "DataError: someone/something:a: the hub gives no such data set" in done.stderr


def test_a_name_that_can_be_neither_file_nor_hub_id(error_of):
    assert "neither 'demo', nor a file" in error_of(load_harmful, "two words")


def test_local_sources_never_touch_the_network(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: calls.append(args))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    load_harmful("demo")
    for name in ("x.json", "x.csv", "x.parquet"):
        load_harmless(write(tmp_path / name, [{"prompt": "p"}]))
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "train.jsonl", [{"prompt": "p"}])
    load_harmless(str(tmp_path / "folder"))
    assert calls == []


def test_importing_the_loaders_does_not_import_datasets():
    code = "import sys, nt_jax.data.sources; print('datasets' in sys.modules, 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
