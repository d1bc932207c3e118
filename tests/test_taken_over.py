"""Stages that another run has made from the same things."""

import errno
import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from nt_jax.console import shown_on
from nt_jax.rundir import RunDirectory, Stage


def carried(folder: Path, key: str, beside: list[Path], text: str = "made") -> tuple[str, str]:
    """(what the stage holds, what was said) once it is carried."""

    def work(to: Path) -> str:
        (to / "deep").mkdir()
        (to / "deep" / "file.txt").write_text(text)
        return "worked"

    screen = io.StringIO()
    with shown_on(Console(file=screen, width=200)), RunDirectory(folder) as run:
        at = run.carry(Stage("select", (), (), work, resumable=False), key, beside)
    return (at / "deep" / "file.txt").read_text(), screen.getvalue()


def test_what_another_run_has_made_from_the_same_things_is_taken_over(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert carried(one, "key", [])[0] == "made"
    text, said = carried(two, "key", [tmp_path / "none", one], "never made")
    assert text == "made" and f"as in {one}" in said and (two / "select" / "DONE").exists()
    facts = [json.loads((run / "run.json").read_text())["stages"]["select"] for run in (one, two)]
    assert facts[1] == facts[0] | {"taken_from": str(one)}
    assert carried(two, "key", [one])[1].startswith("select     kept from before")
    # Each lives on without the other, and a stage that is made anew changes no other run.
    assert carried(two, "other", [one], "anew")[0] == "anew"
    assert (one / "select" / "deep" / "file.txt").read_text() == "made"
    with RunDirectory(one) as run:
        assert run.done("select", "key") and not run.done("select", "other")
        assert run.done("select", "other", [two])


@pytest.mark.parametrize("left", [None, "{}"])
def test_stages_are_taken_over_from_a_run_whose_run_json_says_nothing_of_them(tmp_path, left):
    one, two = tmp_path / "one", tmp_path / "two"
    carried(one, "key", [])
    (one / "run.json").unlink()
    if left is not None:
        (one / "run.json").write_text(left)
    assert carried(two, "key", [one], "never made")[0] == "made"
    facts = json.loads((two / "run.json").read_text())["stages"]["select"]
    assert facts["taken_from"] == str(one) and facts["key"] == "key"


def test_another_key_and_a_half_finished_stage_are_not_taken_over(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    carried(one, "key", [])
    assert carried(two, "other", [one], "own")[0] == "own"
    (one / "select" / "DONE").unlink()
    assert carried(tmp_path / "three", "key", [one], "own")[0] == "own"


def test_where_links_are_not_known_files_are_copied(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    carried(one, "key", [])

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert carried(two, "key", [one], "never made")[0] == "made"
    files = [run / "select" / "deep" / "file.txt" for run in (one, two)]
    assert not os.path.samefile(*files)
