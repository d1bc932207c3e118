"""Processes of one run end together, soon, with a last line of ours and a documented exit code."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nt_jax import exits
from nt_jax.rundir import RunDirectory
from tests.processes.group import Ended, Group
from tests.test_signals import heard  # noqa: F401

pytestmark = [pytest.mark.procs, pytest.mark.usefixtures("heard")]
COUNTS = (2, pytest.param(4, marks=pytest.mark.slow))
MINUTE = 60


@pytest.fixture(params=COUNTS)
def count(request) -> int:
    return request.param


@pytest.fixture
def begin(tmp_path, count) -> Iterator:
    """`begin("ends")`: processes whose run ends like that."""
    groups = []

    def started(how: str) -> Group:
        groups.append(Group(count, ["-m", "tests.processes.endless", str(tmp_path / "run"), how]))
        return groups[-1]

    yield started
    for group in groups:
        group.kill()


def busy(tmp_path: Path):
    """Whether process 0 has taken some steps."""
    step = tmp_path / "run" / ".train.tmp" / "step"
    return lambda: step.exists() and int(step.read_text()) > 20


def resumes(tmp_path: Path) -> None:
    """What was written is there, and nobody holds the folder."""
    with RunDirectory(tmp_path / "run") as run, run.stage("train", "key", resumable=True) as folder:
        assert int((folder / "step").read_text()) > 0


def ours(ended: list[Ended], code: int, said: str) -> None:
    """All have that exit code, and the line stands last."""
    assert [each.code for each in ended] == [code] * len(ended), ended
    for each in ended:
        assert each.last.startswith("nt_jax: ") and said in each.last, each.error


def test_what_goes_well_ends_well_and_listens_on_loopback_alone(begin, tmp_path, count):
    group = begin("ends")
    ended = group.ends(3 * MINUTE)
    assert [each.code for each in ended] == [exits.DONE] * count, ended
    assert (tmp_path / "run/train/step").read_text() == "5"
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name[0] != ".") == [
        "run.json", "train",
    ]  # fmt: skip
    assert group.heard and group.heard <= {"127.0.0.1", "::1"}, group.heard


@pytest.mark.parametrize("which", [0, -1])
def test_a_killed_process_ends_all_within_a_minute(begin, tmp_path, which, count):
    group = begin("never")
    group.until(busy(tmp_path), 3 * MINUTE)
    os.kill(group.worker(which % count), signal.SIGKILL)
    ours(group.ends(MINUTE), exits.LOST, "What is finished is kept: repeat the command")
    resumes(tmp_path)


def test_a_killed_parent_ends_all_within_a_minute(begin, tmp_path, count):
    group = begin("never")
    group.until(busy(tmp_path), 3 * MINUTE)
    group.parents[-1].kill()
    *rest, killed = group.ends(MINUTE)
    assert killed.code == -signal.SIGKILL
    ours(rest, exits.LOST, "What is finished is kept: repeat the command")
    resumes(tmp_path)


@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_one_reaches_all(begin, tmp_path, name, which, count):
    group = begin("never")
    group.until(busy(tmp_path), 3 * MINUTE)
    number = getattr(signal, name)
    group.parents[which % count].send_signal(number)
    word = {"SIGTERM": "terminated", "SIGINT": "interrupted"}[name]
    ended = group.ends(MINUTE)
    ours(ended, 128 + number, f"{word}. What is finished is kept; continue: ")
    assert not (tmp_path / "run/.holder.json").exists() or which
    resumes(tmp_path)


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_of_one_is_the_end_of_all(begin, tmp_path, which):
    ours(begin(f"fails-{which}").ends(3 * MINUTE), exits.MISTAKE, "no space left on the disk")
    resumes(tmp_path)


def test_a_bug_of_one_is_the_end_of_all(begin, tmp_path):
    ended = begin("breaks-1").ends(3 * MINUTE)
    ours(ended, exits.BUG, "this is a bug, please report it with")
    assert list((tmp_path / "run").glob("bug-*.txt"))


def test_a_folder_in_use_is_said_by_all(begin, tmp_path):
    with RunDirectory(tmp_path / "run"):
        ended = begin("never").ends(3 * MINUTE)
    ours(ended, exits.MISTAKE, "is in use by process")
