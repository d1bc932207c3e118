"""A finished stage is read as it was finished, or not at all; what the message advises works."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from nt_jax import seal
from nt_jax.console import shown_on
from nt_jax.errors import RunError
from nt_jax.finished import exported_model, finished_now
from nt_jax.rundir import RunDirectory, Stage
from nt_jax.seal import LARGE, damaged, reading

KEYS = {"select": "a" * 64, "train": "b" * 64}


def carry(
    folder: Path,
    factor: str = "1.5",
    *,
    verify: bool = False,
    extra: bytes = b"",
    outcome=(),
    later=(),
) -> str:
    """Two stages, the second made from the first; what was said."""

    def select(to: Path) -> str:
        (to / "deep").mkdir()
        (to / "deep" / "neurons.csv").write_text("layer,index\n0,7\n")
        (to / "scores.npz").write_bytes(bytes(range(256)) + extra)
        return "selected"

    def train(to: Path) -> str:
        run.read("select")
        (to / "factors").write_text(factor)
        return "tuned"

    screen = io.StringIO()
    with shown_on(Console(file=screen, width=200)), RunDirectory(folder, verify) as run:
        run.record(keys=KEYS)
        first = Stage("select", (), ("data",), select, outcome=outcome, later=later)
        run.carry(first, KEYS["select"])
        run.carry(Stage("train", (), ("data", "select"), train), KEYS["train"])
    return screen.getvalue()


def flip(path: Path, place: int = 3) -> None:
    """Change one byte, the size stays."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def swap(path: Path, make: Callable[[Path], object]) -> None:
    """Put something else in the place of a file."""
    path.unlink()
    make(path)


CSV = Path("deep", "neurons.csv")
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "one index changed": (
        lambda f: (f / CSV).write_text("layer,index\n0,8\n"),
        "deep/neurons.csv (its sha256 is not the one in DONE)",
    ),
    "one bit": (lambda f: flip(f / "scores.npz"), "scores.npz (its sha256 is not"),
    "torn": (lambda f: (f / "scores.npz").write_bytes(b"x"), "1 bytes in place of 256"),
    "gone": (lambda f: (f / CSV).unlink(), "deep/neurons.csv (No such file or directory)"),
    "a folder": (lambda f: swap(f / "scores.npz", Path.mkdir), "scores.npz (it is no file)"),
    "a pipe": (lambda f: swap(f / "scores.npz", os.mkfifo), "scores.npz (it is no file)"),
    "a loop": (
        lambda f: swap(f / "scores.npz", lambda path: path.symlink_to(path.name)),
        "scores.npz (Too many levels of symbolic links)",
    ),
    "a stray file": (lambda f: (f / "safety-9.npz").touch(), "safety-9.npz (the stage did not"),
    "a stray folder": (lambda f: (f / "000099").mkdir(), "000099 (the stage did not write it)"),
    "a stray link": (lambda f: (f / "deep" / "x").symlink_to("/"), "deep/x (the stage did not"),
    "DONE binary": (lambda f: (f / "DONE").write_bytes(b"\xff\xfe\x00"), "DONE ('utf-8' codec"),
    "DONE a list": (lambda f: (f / "DONE").write_text("[1]"), "DONE (it is no record of a stage)"),
    "DONE torn": (lambda f: (f / "DONE").write_text('{"key": '), "DONE (it is no record"),
    "DONE without files": (
        lambda f: (f / "DONE").write_text(json.dumps({"key": KEYS["select"]})),
        "DONE (it is no record",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_names_the_folder_of_the_stage_and_deleting_it_helps(name, tmp_path):
    first = carry(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "train").iterdir()}
    damage, words = DAMAGE[name]
    damage(tmp_path / "select")
    for read in (lambda: carry(tmp_path), lambda: finished_now(tmp_path, "select")):
        with pytest.raises(RunError) as caught:
            read()
        stage = tmp_path / "select"
        message = str(caught.value)
        assert message.startswith(f"{stage} is not as it was finished: ") and words in message
        assert f"Delete the folder {stage}, then repeat the command that made it" in message
        assert "\n" not in message
    shutil.rmtree(tmp_path / "select")
    again = carry(tmp_path)
    assert first.startswith("select     selected") and again.startswith("select     selected")
    assert "train      kept from before" in again  # it was made from the same bytes
    assert {path: path.read_bytes() for path in (tmp_path / "train").iterdir()} == before


def test_a_stage_done_again_with_other_bytes_repeats_what_was_made_from_it(tmp_path):
    carry(tmp_path)
    shutil.rmtree(tmp_path / "train")
    carry(tmp_path, "1.6")
    said = json.loads((tmp_path / "train" / "DONE").read_text())
    key = RunDirectory(tmp_path).digests(["select"])
    assert said["made_from"] == key
    content = json.loads((tmp_path / "select" / "DONE").read_text())
    (tmp_path / "select" / CSV).write_text("layer,index\n1,7\n")
    resealed = seal.seal_of(tmp_path / "select", content["key"], {})
    (tmp_path / "select" / "DONE").write_text(resealed.text())
    assert not RunDirectory(tmp_path).finished("train", KEYS["train"])
    again = carry(tmp_path, "1.7")
    assert "select     kept" in again and "train      tuned" in again


@pytest.mark.parametrize("outcome", [(), (str(CSV),)])
def test_what_later_stages_rest_on_may_be_some_of_the_files(outcome, tmp_path):
    carry(tmp_path, outcome=outcome)
    shutil.rmtree(tmp_path / "select")
    again = carry(tmp_path, extra=b"other", outcome=outcome)
    assert "select     selected" in again
    assert ("train      kept from before" in again) == bool(outcome)
    flip(tmp_path / "select" / "scores.npz")  # all files are checked all the same
    with pytest.raises(RunError, match=r"scores\.npz \(its sha256"):
        carry(tmp_path)


def test_a_file_that_is_written_again_later_may_change(tmp_path):
    later = ("scores.npz",)
    carry(tmp_path, later=later)
    for change in (flip, Path.unlink):
        change(tmp_path / "select" / "scores.npz")
        assert carry(tmp_path, later=later, verify=True).count("kept from before") == 2
    flip(tmp_path / "select" / CSV)  # the others are checked all the same
    with pytest.raises(RunError, match=r"neurons\.csv \(its sha256"):
        carry(tmp_path, later=later)


def test_what_was_begun_from_another_stage_is_not_gone_on_with(tmp_path):
    carry(tmp_path)
    digests = RunDirectory(tmp_path).digests(["select"])
    shutil.rmtree(tmp_path / "train")
    for made_from, kept in ((digests, True), ({"select": "c" * 64}, False)):
        partial = tmp_path / ".train.tmp"
        partial.mkdir(exist_ok=True)
        (partial / "epoch-1").touch()
        (partial / "RESUME").write_text(seal.Seal(KEYS["train"], made_from).text())
        with (
            RunDirectory(tmp_path) as run,
            pytest.raises(KeyError),
            run.stage("train", KEYS["train"], True, ["select"]) as folder,
        ):
            assert (folder / "epoch-1").exists() == kept
            raise KeyError
    (tmp_path / ".train.tmp" / "RESUME").write_bytes(b"\xff")
    carry(tmp_path)
    assert not (tmp_path / "train" / "epoch-1").exists()


def test_a_large_file_is_read_where_it_was_changed_or_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(seal, "LARGE", 100)
    carry(tmp_path)
    path, done = (tmp_path / "select" / name for name in ("scores.npz", "DONE"))
    carry(tmp_path)
    flip(path)
    with pytest.raises(RunError, match=r"scores.npz \(its sha256"):
        carry(tmp_path)  # it is younger than DONE
    os.utime(path, ns=(0, done.stat().st_mtime_ns - 10**9))
    assert "select     kept" in carry(tmp_path)  # known by size and time
    for read in (lambda: carry(tmp_path, verify=True), lambda: finished_now(tmp_path, "select")):
        with pytest.raises(RunError, match=r"scores.npz \(its sha256"):
            read()
    flip(path)
    os.utime(path)  # as a copy has it
    assert "select     kept" in carry(tmp_path)
    assert LARGE == 1 << 26


def test_the_last_version_marked_stages_with_their_key_alone(tmp_path):
    carry(tmp_path)
    for name, key in KEYS.items():
        (tmp_path / name / "DONE").write_text(key)
    (tmp_path / "select" / "notes.txt").touch()
    assert carry(tmp_path).count("kept from before, by an older version: its files cannot be") == 2
    assert finished_now(tmp_path, "select") == tmp_path / "select"
    shutil.rmtree(tmp_path / "select")
    assert "select     selected" in carry(tmp_path)
    (tmp_path / "train").rename(tmp_path / ".train.tmp")  # begun by the last version
    (tmp_path / ".train.tmp" / "DONE").rename(tmp_path / ".train.tmp" / "RESUME")
    (tmp_path / ".train.tmp" / "epoch-1").touch()
    carry(tmp_path)
    assert (tmp_path / "train" / "epoch-1").exists()


def test_hidden_files_are_not_ours_and_links_to_the_same_bytes_will_do(tmp_path):
    carry(tmp_path / "run")
    stage = tmp_path / "run" / "select"
    (stage / ".DS_Store").touch()
    (stage / "scores.npz").rename(tmp_path / "elsewhere.npz")
    (stage / "scores.npz").symlink_to(tmp_path / "elsewhere.npz")
    shutil.move(tmp_path / "run" / "train", tmp_path / "train")
    (tmp_path / "run" / "train").symlink_to(tmp_path / "train")
    assert carry(tmp_path / "run").count("kept from before") == 2


@pytest.mark.parametrize("name", ["select", ".train.tmp"])
@pytest.mark.parametrize("kind", ["file", "loop", "link"])
def test_something_else_in_the_place_of_a_stage(name, kind, tmp_path):
    carry(tmp_path)
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / name, ignore_errors=True)
    place = tmp_path / name
    if kind == "file":
        place.write_text("not a folder")
    else:
        place.symlink_to(name if kind == "loop" else "nowhere")
    if name == "select":
        with pytest.raises(RunError, match=rf"{place} is (a link|not a).*\. Delete it, then rep"):
            carry(tmp_path)
        place.unlink()
    assert "train      tuned" in carry(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "select/DONE"])
def test_a_pipe_in_the_place_of_a_small_file_is_one_line(name, tmp_path):
    """It would never end."""
    carry(tmp_path)
    swap(tmp_path / name, os.mkfifo)
    with pytest.raises(RunError, match="no regular file"):
        carry(tmp_path)


RUN_JSON = {
    "a list": "[1, 2]", "pairs": '[["keys", 1]]', "nothing": "null", "binary": b"\xff\xfe",
    "keys a list": '{"keys": []}', "a key a number": '{"keys": {"select": 5}}',
    "stages of numbers": '{"stages": {"select": 5}}',
    "no times": '{"stages": {"select": {"wall_seconds": "3"}}}',
    "config a word": '{"config": "x"}', "hashes null": '{"hashes": null}', "deep": "[" * 10**5,
}  # fmt: skip


@pytest.mark.parametrize("name", RUN_JSON)
def test_a_wrong_run_json_is_one_line_and_can_be_deleted(name, tmp_path):
    carry(tmp_path)
    text = RUN_JSON[name]
    (tmp_path / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (lambda: carry(tmp_path), lambda: exported_model(tmp_path)):
        with pytest.raises(RunError, match=r"run.json is damaged \(") as caught:
            read()
        assert "\n" not in str(caught.value) and "finished stages are kept" in str(caught.value)
    (tmp_path / "run.json").unlink()
    assert carry(tmp_path).count("kept from before") == 2


def test_run_json_or_the_lock_as_a_folder(tmp_path):
    carry(tmp_path)
    for name in ("run.json", ".lock"):
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        with pytest.raises(RunError, match=r"Delete it, then repeat"):
            carry(tmp_path)
        (tmp_path / name).rmdir()
    assert carry(tmp_path).count("kept from before") == 2


def test_the_holder_of_a_folder_may_be_unreadable(tmp_path):
    for text in ("[1]", '{"pid": 1}', "\ud800"):
        with RunDirectory(tmp_path):
            (tmp_path / ".holder.json").write_bytes(text.encode("utf-8", "surrogatepass"))
            with pytest.raises(RunError, match="in use by another process"), RunDirectory(tmp_path):
                pass


def test_a_file_of_an_unfinished_stage_is_named_alone(tmp_path):
    message = "is damaged (no number). Delete it, then repeat this command."
    assert str(damaged(tmp_path / "x" / "rows.jsonl", ValueError("no\n number"))) == (
        f"{tmp_path / 'x' / 'rows.jsonl'} {message}"
    )
    with pytest.raises(RunError, match=r"is damaged \(it lacks 'factor'\)"), reading(tmp_path):
        raise KeyError("factor")
    denied = r"cannot be read: Permission denied\. Change its permissions"
    with pytest.raises(RunError, match=denied), reading(tmp_path):
        raise PermissionError(13, "Permission denied")
    with pytest.raises(RuntimeError), reading(tmp_path):
        raise RuntimeError("a bug of ours is none of the file's")
