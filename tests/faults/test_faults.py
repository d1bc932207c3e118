"""The fault tests themselves: a fault that is planted makes them fail, and good code does not."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nt_jax.config.grid import read_axes
from tests.faults import __main__ as faults
from tests.faults import child, commands, kills, sweeps
from tests.faults.__main__ import CASES
from tests.run import small

ROOT = Path(__file__).parents[2]
PRELUDE = """
import sys
from pathlib import Path
from tests.faults import fuzz, readers
from tests.faults.__main__ import main
real = readers.load_harmless
def planted(path):
    rows = real(path)
    {fault}
    return rows
readers.load_harmless = planted
fuzz.CPU = {cpu}
sys.exit(main(["--only", "JSONL", "--cases", "{cases}"]))
"""
CLEAN = "0 escapes, 0 hangs, 0 tracebacks, 0 silent differences"


def run(fault: str, cases: int = 15, cpu: int = 30) -> tuple[int, str]:
    """(exit code, last line) of the fuzzer with a fault in the reader of requests."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE.format(fault=fault, cases=cases, cpu=cpu)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout, done.stderr[-2000:]
    return done.returncode, done.stdout.splitlines()[-1]


def test_good_code_passes():
    code, last = run("pass")
    assert code == 0 and last == f"faults: 15 cases, {CLEAN}"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("rows = rows[::-1]", "silent differences"),  # in another order, without a word
        ("rows[0].nothing", "tracebacks"),
        ("while True: pass", "hangs"),
        ("Path('CANARY').touch()", "escapes"),
    ],
)
def test_a_planted_fault_makes_it_fail(fault, kind):
    code, last = run(fault, cpu=3)
    counts = dict(reversed(part.split(" ", 1)) for part in last.split(": ")[1].split(", "))
    assert code == 1
    assert int(counts.pop(kind)) > 0
    assert counts.pop("cases") == "15" and {*counts.values()} == {"0"}


@pytest.mark.parametrize(
    ("says", "code", "counts"),
    [
        (f"one\nfaults: 7 cases, {CLEAN}", 0, {"cases": 7}),
        ("faults: 7 cases, 0 escapes, 1 hangs, 2 tracebacks, 3 silent differences", 1,
         {"cases": 7, "hang": 1, "traceback": 2, "silent": 3}),
        (f"faults: 7 cases, {CLEAN}", 3, {"traceback": 1}),
        ("it dies before it counts", 0, {"traceback": 1}),
        ("", -9, {"traceback": 1}),
    ],
)  # fmt: skip
def test_a_part_of_its_own_process_counts_what_it_says(says, code, counts, capfd):
    end = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
    words = [sys.executable, "-c", f"import os, sys; print({says!r}, flush=True); {end}"]
    part = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert +faults._counts(part) == counts
    assert "faults: " not in capfd.readouterr().out  # of the sum alone


def test_both_forms_are_as_long_as_they_say():
    assert CASES["short"] >= 500 and CASES["long"] >= 10_000
    assert len(kills.SHORT) >= 6 and len(kills.LONG) >= 30
    assert len(sweeps.POINTS) >= 6
    for points in (kills.SHORT, kills.LONG):
        assert {point.split(":")[0] for point in points} >= {*small.STAGES} - {"train", "base"}
        late = [point for point in points if point.split(":")[0] in ("epoch", "dropping", "train")]
        assert len(late) >= 4  # after a committed epoch of tuning


def test_the_sweep_that_is_killed_has_two_cells():
    axes, rest = read_axes(child.settings("sweep"))
    assert [*axes.values()] == [["9", "14"]] and {*rest} < {*small.SETTINGS, *child.GRID}


def test_the_chat_that_is_damaged_answers(tmp_path):
    (lines := tmp_path / "lines").write_text("How do I bake bread?\n/reset\nI can't.\n")
    chat = commands.COMMANDS["chat"]
    chat.oracle(lines, chat.read(lines))


def test_a_run_that_ends_with_other_bytes_is_counted(tmp_path, monkeypatch):
    runs = kills.Runs(tmp_path, lambda line: None)
    monkeypatch.setattr(runs, "child", lambda *words: SimpleNamespace(returncode=0, stderr=""))
    for name, text in (("whole", "1.5"), ("killed", "1.6")):
        (tmp_path / name / "train").mkdir(parents=True)
        (tmp_path / name / "train" / "neurons.csv").write_text(text)
    runs._ends(tmp_path / "killed", "planted")
    assert runs.counts == {"cases": 2, "ok": 1, "silent": 1}
    runs._ends(tmp_path / "whole", "the same")
    assert runs.counts["silent"] == 1


@pytest.mark.parametrize("user", [0, 1000])
def test_a_folder_without_rights_is_tried_by_every_user(user, tmp_path, monkeypatch):
    runs, tried = kills.Runs(tmp_path, lambda line: None), []
    (tmp_path / "whole" / "report").mkdir(parents=True)

    def child(folder, *words):
        tried.append((oct(folder.stat().st_mode)[-3:], words))
        said = f"nt_jax: cannot write to {folder}"
        return SimpleNamespace(returncode=2, stderr=said if user else "nt_jax: no such file")

    monkeypatch.setattr(runs, "child", child)
    monkeypatch.setattr("os.getuid", lambda: user)
    runs.unprivileged()
    assert tried == [("555", ("none",) if user else ("none", "nobody"))]
    assert runs.counts == ({"cases": 1, "ok": 1} if user else {"cases": 1, "traceback": 1})


@pytest.mark.parametrize(
    ("mount", "right", "ci", "fails"),
    [
        (None, False, "true", True), (None, True, "", False), ("exit 32", True, "true", True),
        ("exit 32", False, "true", False), ("exit 32", True, "", False),
    ],
)  # fmt: skip
def test_a_disk_that_cannot_be_mounted_fails_where_ci_could(
    mount, right, ci, fails, tmp_path, monkeypatch
):
    (tmp_path / "bin").mkdir()
    if mount is not None:
        (program := tmp_path / "bin" / "mount").write_text(f"#!/bin/sh\n{mount}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(kills, "may_mount", lambda: right)
    if fails:
        with pytest.raises(RuntimeError, match="no disk can be mounted"):
            kills.small_disk(tmp_path / "disk", "1m").__enter__()
        return
    with kills.small_disk(tmp_path / "disk", "1m") as disk:
        assert disk is None


LATE = """
import time
from tests.faults import kills
kills.TIMEOUT = 0.2
runs = kills.Runs(kills.Path({folder!r}), print)
runs._run = lambda *_: time.sleep(60)
runs._ends = lambda *_: None
runs.kills(["answers:wrote"])
assert runs.counts["traceback"] == 1
"""


def test_a_run_that_takes_too_long_is_not_taken_for_one_that_was_killed(tmp_path):
    done = subprocess.run(  # a process without threads: runs are forked
        [sys.executable, "-W", "ignore", "-c", LATE.format(folder=str(tmp_path / "runs"))],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "kill answers:wrote: traceback: 124 no end within 0.2 s" in done.stdout
