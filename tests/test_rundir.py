"""A run directory stays whole, whatever happens: failures, kills, full disks, second runs."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from nt_jax.atomic import disk_errors, write_atomic
from nt_jax.console import shown_on
from nt_jax.errors import RunError
from nt_jax.rundir import RunDirectory, Stage

ROOT = Path(__file__).parents[1]
PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from nt_jax.rundir import RunDirectory
run = RunDirectory(sys.argv[1])
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder: Path, code: str) -> None:
    """Run `code` in a process of its own, which must end by SIGKILL."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def finish(folder: Path, key: str, text: str) -> None:
    with RunDirectory(folder) as run, run.stage("select", key) as partial:
        (partial / "neurons.txt").write_text(text)


def seen(folder: Path) -> set[str]:
    """Everything that lies in a run directory, apart from the lock."""
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_a_stage_appears_only_when_it_is_complete(tmp_path):
    with RunDirectory(tmp_path / "runs" / "x") as run:
        with run.stage("select", "key-1") as partial:
            (partial / "deep").mkdir()
            (partial / "deep" / "file").write_text("a")
            assert partial.name == ".select.tmp" and not run.folder("select").exists()
            assert not run.finished("select", "key-1")
        assert run.finished("select", "key-1") and not run.finished("select", "key-2")
        assert not run.finished("train", "key-1")
        seal = json.loads((run.folder("select") / "DONE").read_text())
        assert seal["key"] == "key-1" and list(seal["files"]) == ["deep/file"]
        assert (run.folder("select") / "deep" / "file").read_text() == "a"
    assert seen(tmp_path / "runs" / "x") == {"select", "run.json"}


def test_a_failed_stage_leaves_nothing_and_keeps_the_older_one(tmp_path):
    finish(tmp_path, "old", "old text")
    with pytest.raises(KeyError), RunDirectory(tmp_path) as run, run.stage("select", "new") as new:
        (new / "neurons.txt").write_text("half")
        raise KeyError
    assert seen(tmp_path) == {"select", "run.json"}
    with RunDirectory(tmp_path) as run:
        assert run.finished("select", "old") and not run.finished("select", "new")
    assert (tmp_path / "select" / "neurons.txt").read_text() == "old text"
    finish(tmp_path, "new", "new text")
    assert (tmp_path / "select" / "neurons.txt").read_text() == "new text"


def test_an_interrupted_stage_is_carried_on_with_the_same_key_only(tmp_path):
    for key, expected in (("a", []), ("a", ["0"]), ("b", []), ("b", ["0"])):
        with (
            pytest.raises(KeyboardInterrupt),
            RunDirectory(tmp_path) as run,
            run.stage("train", key, resumable=True) as partial,
        ):
            found = sorted(
                path.name for path in partial.iterdir() if path.name not in ("RESUME", ".nt_jax")
            )
            assert found == expected
            (partial / "0").touch()
            raise KeyboardInterrupt
    with RunDirectory(tmp_path) as run:
        with run.stage("train", "b", resumable=True) as partial:
            assert (partial / "0").exists()
        assert run.finished("train", "b")
        assert sorted(path.name for path in run.folder("train").iterdir()) == ["0", "DONE"]
        assert run.facts()["stages"]["train"]["resumed"] is True


def carry(folder: Path, work, key: str = "k", resumable: bool = True) -> str:
    """Carry one stage; what was said."""
    screen, stage = io.StringIO(), Stage("train", ("tune",), ("data",), work, resumable)
    with shown_on(Console(file=screen, width=120)), RunDirectory(folder) as run:
        assert run.carry(stage, key) == folder / "train"
    return screen.getvalue()


def test_a_finished_stage_is_kept_and_says_so(tmp_path):
    def work(folder: Path) -> str:
        assert folder == tmp_path / ".train.tmp"
        (folder / "factors").write_text("1.5")
        return "2 epochs"

    assert re.fullmatch(r"train      2 epochs   \d+:\d\d\n", carry(tmp_path, work))
    again = carry(tmp_path, lambda folder: pytest.fail("it was repeated"))
    assert again == "train      kept from before\n"
    assert (tmp_path / "train" / "factors").read_text() == "1.5"
    assert "once more" in carry(tmp_path, lambda folder: "once more", key="other")
    assert not (tmp_path / "train" / "factors").exists()


@pytest.mark.parametrize("resumable", [True, False])
def test_an_interrupted_stage_goes_on_in_its_folder_if_it_is_resumable(tmp_path, resumable):
    def interrupted(folder: Path) -> str:
        (folder / "epoch-1").touch()
        raise KeyboardInterrupt

    def work(folder: Path) -> str:
        return f"goes on: {(folder / 'epoch-1').exists()}"

    with pytest.raises(KeyboardInterrupt):
        carry(tmp_path, interrupted, resumable=resumable)
    assert not (tmp_path / "train").exists()
    assert f"goes on: {resumable}   " in carry(tmp_path, work, resumable=resumable)
    assert (tmp_path / "train" / "epoch-1").exists() == resumable
    assert seen(tmp_path) == {"train", "run.json"}


def test_a_kill_in_the_middle_of_a_stage_leaves_the_older_one(tmp_path):
    finish(tmp_path, "old", "old text")
    killed(tmp_path, "with run, run.stage('select', 'new') as f: (f / 'a').write_text('b'); die()")
    assert (tmp_path / "select" / "neurons.txt").read_text() == "old text"
    with RunDirectory(tmp_path) as run:  # the next run sweeps up, and the dead lock is free
        assert run.finished("select", "old")
    assert seen(tmp_path) == {"select", "run.json"}


def test_a_killed_resumable_stage_is_carried_on(tmp_path):
    killed(
        tmp_path,
        "with run, run.stage('train', 'k', resumable=True) as f:\n"
        "    (f / 'epoch-1').write_text('1')\n    (f / '.theta.npz.77.tmp').touch()\n    die()",
    )
    with RunDirectory(tmp_path) as run, run.stage("train", "k", resumable=True) as partial:
        assert sorted(path.name for path in partial.iterdir()) == [".nt_jax", "RESUME", "epoch-1"]
    assert seen(tmp_path) == {"train", "run.json"}


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_during_the_swap_loses_no_finished_stage(tmp_path, renames):
    """Renames of the swap: old folder aside, new folder in place; then the old one is deleted."""
    finish(tmp_path, "old", "old text")
    killed(
        tmp_path,
        "import nt_jax.swap\n"
        f"rename, left = Path.rename, [{renames}]\n"
        "def counted(path, target):\n"
        "    left[0] or die()\n    left[0] -= 1\n    return rename(path, target)\n"
        "with run, run.stage('select', 'new') as f:\n"
        "    (f / 'neurons.txt').write_text('new text')\n"
        "    Path.rename, nt_jax.swap.sync = counted, die",
    )
    with RunDirectory(tmp_path) as run:
        assert run.finished("select", "new")
    assert (tmp_path / "select" / "neurons.txt").read_text() == "new text"
    assert seen(tmp_path) == {"select", "run.json"}


@pytest.mark.parametrize(
    "patch",
    [
        "Path.touch = die",  # before a new folder has its mark
        "import nt_jax.swap\nfolder = run.path / '.select.tmp'\nfolder.mkdir(parents=True)\n"
        "for name in ('.nt_jax', *'abcdefgh'): (folder / name).touch()\n"
        "really = os.unlink\n"
        "def unlink(file, **known):\n"
        "    really(file, **known)\n    os.path.basename(file) == '.nt_jax' and die()\n"
        "os.unlink = unlink",  # while the folder that an older kill left is cleared
    ],
    ids=["before its mark", "while it is cleared"],
)
def test_a_kill_around_the_mark_of_a_partial_folder_leaves_nothing_behind(tmp_path, patch):
    killed(tmp_path, f"{patch}\nwith run, run.stage('select', 'k'): pass")
    assert ".select.tmp" in seen(tmp_path)  # the kill came where it was meant to
    with RunDirectory(tmp_path):
        pass
    assert not seen(tmp_path)


def test_kills_at_any_moment_leave_only_whole_stages(tmp_path):
    code = (
        "with run:\n  print('ready', flush=True)\n"
        "  for n in range(10**6):\n    with run.stage('select', str(n)) as f:\n"
        "      for i in range(5): (f / f'{i}').write_text(str(n))\n"
        "    n or print('one stage stands', flush=True)"
    )
    for wait in (0.0, 0.003, 0.007, 0.013, 0.021, None):
        child = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            if wait is None:  # at last, however slow the machine is, after a whole stage
                child.stdout.readline()
            time.sleep(0.03 if wait is None else wait)
            child.kill()
        with RunDirectory(tmp_path) as run:
            run.facts()  # run.json is whole
            if run.folder("select").exists():
                key = json.loads((run.folder("select") / "DONE").read_text())["key"]
                texts = {(run.folder("select") / str(i)).read_text() for i in range(5)}
                assert texts == {key}
        assert seen(tmp_path) <= {"select", "run.json"}
    assert (tmp_path / "select").exists()


def test_a_second_run_is_told_who_holds_the_directory(tmp_path):
    code = "with run:\n    print('held', flush=True)\n    time.sleep(60)"
    child = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        before = seen(tmp_path)
        with pytest.raises(RunError) as caught, RunDirectory(tmp_path):
            pass
        child.kill()
    message = str(caught.value)
    assert (
        f"{tmp_path} is in use by process {child.pid} on {os.uname().nodename}, since 2" in message
    )
    assert "\n" not in message and seen(tmp_path) == before
    with RunDirectory(tmp_path):
        pass  # the lock of a dead process is free


def test_two_in_one_process_exclude_each_other_too(tmp_path):
    with RunDirectory(tmp_path):
        with pytest.raises(RunError, match=f"process {os.getpid()} on "), RunDirectory(tmp_path):
            pass
        assert (tmp_path / ".holder.json").exists()
    with RunDirectory(tmp_path):
        pass


def test_a_full_disk_is_one_line_with_the_folder_and_what_is_free(tmp_path):
    with (
        pytest.raises(RunError) as caught,
        RunDirectory(tmp_path) as run,
        run.stage("train", "key", resumable=True) as partial,
    ):
        (partial / "epoch-1").write_text("kept")
        Path("/dev/full").write_text("x")  # a device that is always full
    message = str(caught.value)
    assert message.startswith(f"no space left on the disk of {tmp_path} (")
    assert "GB free)" in message and "\n" not in message
    with RunDirectory(tmp_path) as run, run.stage("train", "key", resumable=True) as partial:
        assert (partial / "epoch-1").read_text() == "kept"


def test_a_full_disk_behind_a_library_is_recognised(tmp_path):
    with pytest.raises(RunError, match="no space left"), disk_errors(tmp_path / "not" / "yet"):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")
    with pytest.raises(ValueError, match="other"), disk_errors(tmp_path):
        raise ValueError("other")
    with pytest.raises(PermissionError), disk_errors(tmp_path):  # not about our folder
        raise PermissionError(errno.EACCES, "denied", "/models/llama")


def test_a_place_that_cannot_be_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match=r"run_dir=DIR\.$"), RunDirectory(path):
            pass


def test_run_json_tells_what_made_the_result(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.record(config={"seed": 3}, seed=3, hashes={"data": "d"})
        run.carry(Stage("select", (), (), lambda folder: str(time.sleep(0.02))), "k")
        run.record(hashes={"data": "e", "weights": "w"}, config={"tune": 1})
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["hashes"] == {"data": "e", "weights": "w"} and facts["seed"] == 3
    assert facts["versions"]["numpy"] and facts["python"] and facts["platform"]
    assert facts["hardware"]["cpus"] >= 1 and facts["hardware"]["memory_bytes"] > 1e8
    stage = facts["stages"]["select"]
    assert stage["key"] == "k" and stage["resumed"] is False
    assert 0.02 <= stage["wall_seconds"] < 5 and stage["peak_memory_bytes"] > 1e6


def test_facts_that_no_longer_hold_leave_run_json_and_stages_stay(tmp_path):
    with RunDirectory(tmp_path) as run:
        run.record(overlap={"advbench": 100}, hashes={"data": "d", "start": "s"})
        run.carry(Stage("select", (), (), lambda folder: "made"), "k")
        run.carry(Stage("train", (), (), lambda folder: "made"), "k")
        run.record(overlap={}, hashes={"data": "d"})
        facts = run.facts()
    assert facts["overlap"] == {} and facts["hashes"] == {"data": "d"}
    assert set(facts["stages"]) == {"select", "train"}


def test_a_run_that_is_only_read_keeps_the_machine_that_made_it(tmp_path):
    stage = Stage("select", (), (), lambda folder: "made")
    with RunDirectory(tmp_path) as run:
        run.carry(stage, "k")
        run.record(versions={"numpy": "0.1"}, hardware={"cpus": 999})
    with RunDirectory(tmp_path) as run:
        run.carry(stage, "k")  # kept from before
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["versions"]["numpy"] == "0.1" and facts["hardware"]["cpus"] == 999
    with RunDirectory(tmp_path) as run:
        run.carry(stage, "another")
    assert json.loads((tmp_path / "run.json").read_text())["hardware"]["cpus"] != 999


def test_a_damaged_run_json_is_one_line(tmp_path):
    finish(tmp_path, "k", "text")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"run.json is damaged .* Delete it"), RunDirectory(tmp_path):
        pass
    (tmp_path / "run.json").unlink()
    with RunDirectory(tmp_path) as run:
        assert run.finished("select", "k")


def test_write_atomic_leaves_the_old_bytes_when_it_fails(tmp_path, monkeypatch):
    file = tmp_path / "theta.npz"
    write_atomic(file, b"old")
    write_atomic(file, b"new")
    assert file.read_bytes() == b"new"

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="no space left"):
        write_atomic(file, b"newer")
    assert file.read_bytes() == b"new" and list(tmp_path.iterdir()) == [file]
