"""Runs that are killed, hung up or out of room: they end with what an unbroken run ends with."""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from tests import conftest, tiny  # noqa: F401  conftest: how tests compile
from tests.faults import child
from tests.run import small

TIMEOUT = 900  # seconds that a tiny run may take on a busy machine
LATE = 124  # the code of one that took longer, as timeout(1) has it
# In the order of the run: one folder goes through all of them, one after the other.
SHORT = (
    "answers:wrote", "attribute:wrote", "select:marked", "epoch:1", "epoch:2", "dropping:3",
    "train:renamed", "export:wrote", "append:1", "tuned:marked", "eval:wrote", "report:renamed",
)  # fmt: skip
MOMENTS = ("wrote", "marked", "renamed")
LONG = (
    *(f"{stage}:{moment}" for stage in ("answers", "attribute", "select") for moment in MOMENTS),
    "epoch:1", "epoch:2", "epoch:3", "dropping:4", "epoch:4",
    *(f"train:{moment}" for moment in MOMENTS), *(f"export:{moment}" for moment in MOMENTS),
    # of five batches of each model, one more every time
    *("append:0",) * 3, "base:wrote", "base:renamed", *("append:0",) * 3, "tuned:wrote",
    "tuned:marked", "eval:wrote", "eval:marked", "report:wrote", "report:renamed",
)  # fmt: skip
HANDLED = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}
# What must not depend on what a run met: the factors, the export, every answer and number.
SAME = ("select/neurons.csv", "train/neurons.csv", "export/hf", "eval/answers.jsonl",
        "report/results.json")  # fmt: skip


FULL = ("no space left on the disk of", " GB are free there. Free some space")


class Ended(NamedTuple):
    """How a process ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Runs:
    """A tiny model, a recipe, and an unbroken run to compare with, all in one folder."""

    def __init__(self, root: Path, say: Callable[[str], None] = print) -> None:
        self.root, self.say, self.counts = root, say, Counter()
        root.mkdir(exist_ok=True)
        model = tiny.copy("smollm2", root / "tiny")
        tiny.edit_json(model / "config.json", max_position_embeddings=1024)
        self.recipe = root / "small.yaml"
        self.recipe.write_text(f"model: {{source: {model}}}\n")
        self.compiled = os.environ.get("NT_JAX_FAULTS_XLA", str(root / "xla"))

    def child(self, folder: Path, *words: str) -> Ended:
        """One process of tests/faults/child.py, forked: what it imports is imported already."""
        files = [self.root / name for name in ("stdout", "stderr")]
        process = os.fork()
        if process == 0:
            _become(files, lambda: self._run(folder, *words))
        end, late = time.monotonic() + TIMEOUT, False
        while (found := os.waitpid(process, os.WNOHANG))[0] == 0:
            if late := time.monotonic() > end:
                os.kill(process, signal.SIGKILL)
            time.sleep(0.05)
        printed, said = (file.read_text(errors="replace") for file in files)
        if late:  # not the SIGKILL that a kill point asks for
            return Ended(LATE, printed, f"{said}no end within {TIMEOUT} s")
        return Ended(os.waitstatus_to_exitcode(found[1]), printed, said)

    def _run(self, folder: Path, *words: str) -> int:
        """In the child: what one process compiles, the next one reads."""
        jax.config.update("jax_compilation_cache_dir", self.compiled)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        return child.main(self.recipe, folder, *words)

    def whole(self) -> dict[str, str]:
        """What the unbroken run ends with."""
        folder = self.root / "whole"
        if not folder.exists():
            done = self.child(folder, "none")
            assert done.returncode == 0, done.stderr[-2000:]
        return contents(folder)

    def check(self, name: str, good: bool, kind: str, said: str) -> None:
        """Count one case, and say what was wrong with it."""
        self.counts["cases"] += 1
        self.counts["ok" if good else kind] += 1
        if not good:
            self.say(f"  {name}: {kind}: {said[-800:]}")

    def kills(self, points: Sequence[str]) -> None:
        """One run killed at each point in turn, each time by another process, then let to end."""
        folder = self.root / "killed"
        for point in points:
            done = self.child(folder, point)
            met = done.returncode == -signal.SIGKILL
            self.check(f"kill {point}", met, "traceback", f"{done.returncode} {done.stderr}")
        self._ends(folder, "after the kills")
        self.say(f"kills {len(points)}")

    def kills_of(
        self,
        command: str,
        points: Sequence[str],
        contents: Callable[[Path], Mapping[str, str]],
        files: int | None = None,
    ) -> None:
        """The same of another command, whose `contents` are so many `files`."""
        whole, killed = (self.root / f"{command} {kind}" for kind in ("whole", "killed"))
        done = self.child(whole, "none", "SIGKILL", command)
        assert done.returncode == 0, done.stderr[-2000:]
        for point in points:
            done = self.child(killed, point, "SIGKILL", command)
            met = done.returncode == -signal.SIGKILL
            said = f"{done.returncode} {done.stderr}"
            self.check(f"{command} killed at {point}", met, "traceback", said)
        done = self.child(killed, "none", "SIGKILL", command)
        said = f"{done.returncode} {done.stderr}"
        self.check(f"{command} after the kills", done.returncode == 0, "traceback", said)
        found, wanted = contents(killed), contents(whole)
        wrong = sorted(name for name in wanted if found.get(name) != wanted[name])
        same = found == wanted and len(wanted) == (files or len(wanted))
        said = f"{wrong} of {[*found]}"
        self.check(f"{command} after the kills: same bytes", same, "silent", said)
        self.say(f"kills of command {command} {len(points)}")

    def signals(self) -> None:
        """A run ended by each signal that is handled: its code, one line, no holder file."""
        folder = self.root / "signalled"
        for point, (name, code) in zip(
            ("attribute:wrote", "epoch:2", "append:1"), HANDLED.items(), strict=True
        ):
            done = self.child(folder, point, name)
            lines = [line for line in done.stderr.splitlines() if line.startswith("nt_jax: ")]
            good = done.returncode == code and len(lines) == 1 and "continue: " in lines[0]
            good = good and "Traceback" not in done.stderr
            good = good and not (folder / ".holder.json").exists()
            self.check(f"{name} at {point}", good, "traceback", f"{done.returncode} {done.stderr}")
        self._ends(folder, "after the signals")
        self.say(f"signals {len(HANDLED)}")

    def full_disks(self) -> None:
        """A disk that fills up at every stage: one line each time, the same end."""
        with small_disk(self.root / "disk", "64m") as disk:
            if disk is None:
                self.say("full disks: SKIPPED, no small disk can be mounted here")
                return
            done = self.child(disk / "run", "full")
            for stage in small.STAGES:
                said = [line for line in done.stdout.splitlines() if line.startswith(f"{stage}: ")]
                good = len(said) == 1 and any(words in said[0] for words in FULL)
                self.check(f"full at {stage}", good, "traceback", f"{said} {done.stderr[-500:]}")
            found, whole = contents(disk / "run"), self.whole()
            wrong = [file for file in whole if found.get(file) != whole[file]]
            self.check("after full disks", not wrong, "silent", f"{wrong} {done.stderr[-800:]}")
        self.say(f"full disks {len(small.STAGES)}")

    def read_only(self) -> None:
        """A disk that nothing may be written to: one line."""
        with small_disk(self.root / "ro", "64m") as disk:
            if disk is None:
                self.say("read-only: SKIPPED, no disk can be mounted here")
                return
            shutil.copytree(self.root / "whole", disk / "run", symlinks=True)
            shutil.rmtree(disk / "run" / "report")
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            self._refused(disk / "run", "none")
            self._refused(disk / "new", "none")
        self.say("read-only 2")

    def unprivileged(self) -> None:
        """A folder that the user may not write to; another user for root, who is never refused."""
        folder = self.root / "rights"
        shutil.copytree(self.root / "whole", folder, symlinks=True)
        shutil.rmtree(folder / "report")
        folder.chmod(0o555)
        try:
            self._refused(folder, "none", *(["nobody"] if os.getuid() == 0 else []))
        finally:
            folder.chmod(0o755)
        self.say("unprivileged user 1")

    def _refused(self, folder: Path, *words: str) -> None:
        done = self.child(folder, *words)
        lines = [line for line in done.stderr.splitlines() if line.startswith("nt_jax: ")]
        good = done.returncode == 2 and len(lines) == 1 and "cannot write to" in lines[0]
        good = good and "Traceback" not in done.stderr
        self.check(
            f"read-only {folder.name}", good, "traceback", f"{done.returncode} {done.stderr}"
        )

    def _ends(self, folder: Path, name: str) -> None:
        done = self.child(folder, "none")
        self.check(name, done.returncode == 0, "traceback", f"{done.returncode} {done.stderr}")
        found, whole = contents(folder), self.whole()
        wrong = [file for file in whole if found.get(file) != whole[file]]
        self.check(f"{name}: same bytes", found == whole, "silent", str(wrong))


def contents(folder: Path) -> dict[str, str]:
    """Name -> hash of what a run must end with."""
    files = [
        file
        for name in SAME
        for file in ([folder / name] if (folder / name).is_file() else (folder / name).rglob("*"))
        if file.is_file()
    ]
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A disk of its own, or None where none can be mounted.

    With CI=true that is an error, but for a container that has no right to mount anything.
    """
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    missing = shutil.which("mount") is None
    done = None if missing else subprocess.run(words, capture_output=True, text=True, check=False)
    if done is None or done.returncode:
        if os.environ.get("CI") == "true" and (missing or may_mount()):
            raise RuntimeError(f"no disk can be mounted: {done.stderr if done else 'no mount'}")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def may_mount() -> bool:
    """Whether this process has the right (CAP_SYS_ADMIN) to mount a disk."""
    lines = Path("/proc/self/status").read_text().splitlines()
    held = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
    return bool(int(held, 16) >> 21 & 1)


def _become(files: Sequence[Path], work: Callable[[], int]) -> None:
    """In the child: print into files, work, and end without what the parent would do at its end."""
    code = 1
    try:
        for number, file in enumerate(files, 1):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
