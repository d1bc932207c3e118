"""Real processes of one run on this machine: started, watched, killed, waited for."""

import ipaddress
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.quick import quick_flags
from tests.run import small

ROOT = Path(__file__).parents[2]
LISTENS = "0A"  # a state in /proc/net/tcp
MESHES = {1: (), 2: ("mesh.model=2",), 4: ("mesh.data=2", "mesh.model=2")}
SHARES = ("mesh.fsdp=2",)  # two processes, each with its share of all weights


class Ended(NamedTuple):
    """How a process has ended, and what it said."""

    code: int
    out: str
    error: str

    @property
    def last(self) -> str:
        """The last line of its errors."""
        return self.error.rstrip("\n").split("\n")[-1]


class Group:
    """`count` processes, each told its place behind `words`."""

    def __init__(self, count: int, words: Sequence[str], cache: Path | None = None) -> None:
        port = free_port()
        self.places = [
            ["--coordinator", f"127.0.0.1:{port}", "--processes", str(count), "--process", str(n)]
            for n in range(count)
        ]
        self.folder = Path(tempfile.mkdtemp(prefix="nt_jax_group_"))
        self.parents = [self._start([*words, *p], n, cache) for n, p in enumerate(self.places)]
        self.heard: set[str] = set()  # addresses at which any of them has listened

    def _start(self, words: list[str], number: int, cache: Path | None) -> subprocess.Popen:
        with open(self._file(number, 1), "w") as out, open(self._file(number, 2), "w") as error:
            return subprocess.Popen(
                [sys.executable, "-W", "ignore", *words], cwd=ROOT, env=environment(cache),
                stdout=out, stderr=error,
            )  # fmt: skip

    def _file(self, number: int, stream: int) -> Path:
        return self.folder / f"{number}-{stream}.txt"

    def worker(self, number: int) -> int:
        """The process that does the work of one of them: its only child."""
        parent = self.parents[number].pid
        found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        assert len(found) == 1, found
        return int(found[0])

    def until(self, true: Callable[[], bool], seconds: float) -> None:
        """Wait until something is so; fails where a process ends before, or it takes longer."""
        end = time.monotonic() + seconds
        while not true():
            self.listen()
            gone = [n for n, parent in enumerate(self.parents) if parent.poll() is not None]
            assert not gone, [self._ended(n) for n in gone]
            assert time.monotonic() < end, "it took too long"
            time.sleep(0.05)

    def ends(self, seconds: float) -> list[Ended]:
        """How all of them end, within so many seconds."""
        end = time.monotonic() + seconds
        while any(parent.poll() is None for parent in self.parents):
            self.listen()
            if time.monotonic() > end:
                said = [self._said(n)[-2000:] for n in range(len(self.parents))]
                self.kill()
                pytest.fail(f"not all have ended in {seconds} s: {said}")
            time.sleep(0.1)
        return [self._ended(n) for n in range(len(self.parents))]

    def kill(self) -> None:
        """End whatever still runs."""
        for parent in self.parents:
            parent.kill()
            parent.wait()

    def listen(self) -> None:
        """Note where they listen now."""
        pids = [p for parent in self.parents for p in (parent.pid, *children(parent.pid))]
        self.heard |= listening(pids)

    def _ended(self, number: int) -> Ended:
        code = self.parents[number].wait()
        return Ended(code, self._said(number, 1), self._said(number))

    def _said(self, number: int, stream: int = 2) -> str:
        return self._file(number, stream).read_text(errors="replace")


def environment(cache: Path | None) -> dict[str, str]:
    """Like the tests' own: CPUs, quick compiling, nothing kept but compiled programs."""
    known = os.environ | {
        "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "NT_JAX_CACHE": "off",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": quick_flags(),  # not those of this process, which may have more devices
    }  # fmt: skip
    if cache is not None:
        known["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        known["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    return known


def words(
    command: str, recipe: Path, folder: Path, count: int = 1, mesh: Sequence[str] = ()
) -> list[str]:
    """The words of a command on the tiny run, on `mesh` or the usual one of so many processes."""
    mesh = mesh or MESHES[count]
    return ["-m", f"nt_jax.{command}", "--config", str(recipe), *small.SETTINGS, *mesh,
            f"run_dir={folder}"]  # fmt: skip


def alone(words: Sequence[str], cache: Path | None = None) -> Ended:
    """The same by one process."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words], cwd=ROOT, env=environment(cache),
        capture_output=True, text=True,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def free_port() -> int:
    """A port of loopback that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def children(pid: int) -> list[int]:
    """The children of a process; none where it is gone."""
    try:
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except OSError:
        return []


def listening(pids: Sequence[int]) -> set[str]:
    """The addresses at which these processes listen (Linux)."""
    found = set()
    for pid in pids:
        try:
            links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
            inodes = {m[1] for link in links if (m := re.fullmatch(r"socket:\[(\d+)\]", link))}
            tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
        except OSError:  # it has just ended
            continue
        for row in (line.split() for table in tables for line in table.splitlines()[1:]):
            if row[3] == LISTENS and row[9] in inodes:
                found.add(_address(row[1].split(":")[0]))
    return found


def _address(text: str) -> str:
    """An address of /proc/net/tcp, in words of 32 bits as this machine has them."""
    words = [bytes.fromhex(text[n : n + 8])[::-1] for n in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
