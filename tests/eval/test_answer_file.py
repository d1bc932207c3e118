"""The file that keeps one model's answers: what is missing, and what a kill cuts off."""

import json
import os

import pytest

from nt_jax.config.schema import EvalConfig
from nt_jax.errors import RunError
from nt_jax.eval.answer_file import RecordFile, answer_rows, asked
from nt_jax.eval.prompts import test_prompts

PROMPTS = test_prompts(EvalConfig(limit=3))


def test_a_file_says_what_is_missing_and_forgets_a_cut_line(tmp_path):
    path = tmp_path / "base.jsonl"
    file = RecordFile(path)
    assert file.missing(PROMPTS, asked) == PROMPTS
    file.append(answer_rows("base", PROMPTS[:2], ["Sure.", "Über 3 °C"]))
    last = answer_rows("base", PROMPTS[2:4], ["Line\nbreak and \u2028 too", "cut ü"])
    file.append(last)
    whole = path.read_bytes()
    for kept in (-2, -4):  # killed while it wrote the fourth; the second time within its letter
        path.write_bytes(whole[:kept])
        again = RecordFile(path)
        assert again.missing(PROMPTS, asked) == PROMPTS[3:]
        again.append(last[1:])
        assert path.read_bytes() == whole
        assert json.dumps([*RecordFile(path).rows.values()]) == json.dumps([*again.rows.values()])


def test_records_are_on_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    file = RecordFile(tmp_path / "base.jsonl")
    file.append(answer_rows("base", PROMPTS[:1], ["Sure."]))
    assert synced == [file.path.stat().st_size] and synced[0] > 0


def test_records_come_in_the_order_that_was_asked_for(tmp_path):
    file = RecordFile(tmp_path / "tuned.jsonl")
    file.append(answer_rows("tuned", PROMPTS[::-1], [str(n) for n in range(len(PROMPTS))]))
    rows = file.in_order(map(asked, PROMPTS))
    assert [row["id"] for row in rows] == [prompt.id for prompt in PROMPTS]
    with pytest.raises(RunError, match=r"tuned\.jsonl is damaged \(it lacks \('demo', 'x'\)"):
        file.in_order([("demo", "x")])


@pytest.mark.parametrize("stray", ["a folder", "a device", "a pipe"])
def test_what_is_no_file_in_its_place_is_named(tmp_path, stray):
    path = tmp_path / "tuned.jsonl"
    if stray == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir() if stray == "a folder" else os.mkfifo(path)
    with pytest.raises(RunError, match=r"tuned\.jsonl is damaged .*no regular file.*Delete it"):
        RecordFile(path)
