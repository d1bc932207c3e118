"""One run by several processes as actors of Ray, each on a node that Ray chooses.

    python launch/ray_run.py 2 8 --config my-model.yaml mesh.data=2 mesh.model=8

The first number is that of the processes, the second that of the GPUs of each (0: CPUs); what
stands behind them are words of `python -m nt_jax.train`. RAY_ADDRESS names the cluster, as `ray
job submit` sets it. The run directory must be on a disk that all nodes share. Exit code 75: a
process is gone; repeat the command. Run with two processes on one machine (docs/scaling.md).
"""

import os
import subprocess
import sys
from typing import Any

from nt_jax.cluster import ADDRESS
from nt_jax.errors import NtError, brief
from nt_jax.run.by_ray import joined

PORT = 4321
USAGE = "python launch/ray_run.py PROCESSES GPUS --config RECIPE [section.key=value ...]"
WAIT = 300  # seconds in which the cluster must have room for all of them
MISTAKE = 2  # exit code


class Member:
    """One process of the run."""

    def address(self) -> str:
        """Where the others reach it."""
        import ray

        return ray.util.get_node_ip_address()

    def run(self, words: list[str], folder: str) -> tuple[int, str]:
        """Its exit code, and the last line of its errors; the rest is in Ray's files of workers."""
        os.chdir(folder)
        command = [sys.executable, "-m", "nt_jax.train", *words]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
        return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def mistake(said: str) -> int:
    """Say in a line what is wrong."""
    print(f"launch/ray_run.py: {said}", file=sys.stderr)
    return MISTAKE


def read(words: list[str]) -> tuple[int, int, list[str]] | None:
    """(processes, GPUs of each, the rest); None where these are no numbers."""
    if len(words) < 3 or not all(word.isascii() and word.isdecimal() for word in words[:2]):
        return None
    if any(len(word) > 6 for word in words[:2]) or int(words[0]) < 1:
        return None
    return int(words[0]), int(words[1]), words[2:]


def main(words: list[str]) -> int:
    """The largest exit code of the processes."""
    told = read(words)
    if told is None:
        return mistake(f"usage: {USAGE}")
    address = os.environ.get("RAY_ADDRESS", "")
    if not ADDRESS.fullmatch(address):
        return mistake("RAY_ADDRESS must be HOST:PORT of the cluster (docs/scaling.md)")
    count, gpus, rest = told
    try:
        with joined(address, max(gpus, 1)) as cluster:
            return started(cluster.ray, count, gpus, rest)
    except NtError as error:
        return mistake(str(error))


def started(ray: Any, count: int, gpus: int, words: list[str]) -> int:
    """Start all of them; the largest exit code."""
    kind = ray.remote(num_cpus=1, num_gpus=gpus)(Member)
    members = [kind.remote() for _ in range(count)]
    try:
        hosts = ray.get([each.address.remote() for each in members], timeout=WAIT)
        place = ["--coordinator", f"{hosts[0]}:{PORT}", "--processes", str(count), "--process"]
        runs = [
            each.run.remote([*words, *place, str(n)], os.getcwd()) for n, each in enumerate(members)
        ]
        code, line = max(ray.get(runs))
        if code:
            print(line, file=sys.stderr)
        return code
    except ray.exceptions.GetTimeoutError:
        return mistake(f"the cluster had no room for {count} processes in {WAIT} s")
    except ray.exceptions.RayError as error:
        return mistake(brief(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
