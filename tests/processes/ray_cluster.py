"""A cluster of Ray on this machine: two tasks at a time, ended by the process that began it."""

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.processes.group import free_port

NEEDED = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None and os.environ.get("CI") != "true",
    reason="not installed: ray (extra ray)",
)
# Where Ray is not to leave this machine it takes loopback; --node-ip-address alone does not do it.
LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@contextlib.contextmanager
def cluster(folder: Path, environ: dict[str, str]) -> Iterator[str]:
    """Its address; `folder` has to be short, as it holds sockets."""
    port = free_port()
    known = environ | LOCAL
    words = [
        "--head", "--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "2",
        "--disable-usage-stats", "--include-dashboard", "false", "--temp-dir", str(folder),
        "--block",
    ]  # fmt: skip
    head = started(["start", *words], known)
    try:
        until_it_answers(f"127.0.0.1:{port}", head)
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()  # with --block it ends all that it has started
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            head.kill()


def started(words: Sequence[str], environ: dict[str, str]) -> subprocess.Popen:
    """`ray WORDS`, its screen thrown away."""
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *words]
    nothing = subprocess.DEVNULL
    return subprocess.Popen(command, env=os.environ | environ, stdout=nothing, stderr=nothing)


def until_it_answers(address: str, head: subprocess.Popen) -> None:
    """Wait for the cluster, five minutes at most."""
    from nt_jax.errors import ConfigError
    from nt_jax.run.by_ray import joined

    for _ in range(100):
        if head.poll() is not None:
            pytest.fail(f"ray start has ended with {head.returncode}")
        try:
            with joined(address, 1):
                return
        except ConfigError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(3)
    pytest.fail(f"nothing answers at {address}")
