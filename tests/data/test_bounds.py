"""JSON that pyarrow would die of, or take for text: refused before it is read."""

import pytest

from nt_jax.data.sources import load_harmless
from nt_jax.errors import DataError


@pytest.mark.parametrize(
    ("name", "rows", "said"),
    [
        ("x.json", '[null, {"request": "What is 1?", "answer": "It is 1."}]', "row 1 is null"),
        ("x.json", '\ufeff [{"request": "What is 1?"} , null]', "row 2 is null"),
        ("x.json", 'null\n{"request": "What is 1?"}', "row 1 is null"),
        ("x.jsonl", 'null\n{"request": "What is 1?"}', "line 1 is null"),
        ("x.jsonl", '\ufeff\n null null\n{"request": "What is 1?"}', "line 2 is null"),
    ],
)
def test_rows_of_json_that_are_null_are_refused(tmp_path, name, rows, said):
    """Of a null before objects pyarrow dies, and the process with it."""
    path = tmp_path / name
    path.write_text(rows, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        load_harmless(str(path))


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_a_byte_that_json_wants_escaped_is_refused(tmp_path, error_of, name):
    """pyarrow takes it for text, and every other reader for damage."""
    first, second = '{"request": "What is 1?"}', '{"request": "What\x02is 2?"}'
    text = f"[{first},\n{second}]" if name == "x.json" else f"{first}\n{second}\n"
    (tmp_path / name).write_text(text)
    message = error_of(load_harmless, str(tmp_path / name))
    assert "line 2: byte 0x02 has no place in JSON. Write it as \\u0002, or leave" in message
    (tmp_path / name).write_text(text.replace("\x02", "\\u0002"))  # as it says
    assert [row.request for row in load_harmless(str(tmp_path / name))][1] == "What\x02is 2?"


@pytest.mark.parametrize("space", "\t\n\r")
def test_white_space_within_a_text_of_json_is_refused_and_between_them_taken(
    tmp_path, error_of, space
):
    path, said = tmp_path / "x.json", f"byte 0x{ord(space):02x} has no place within a text in JSON"
    good = '[{"request": "What is \\"1\\"?"},' + space + '{"request": "What is 2?"}]'
    path.write_bytes(good.encode())
    assert len(load_harmless(str(path))) == 2
    path.write_bytes(good.replace("is 2", f"is{space}2").encode())
    assert said in error_of(load_harmless, str(path))
