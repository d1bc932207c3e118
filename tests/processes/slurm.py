"""A cluster of SLURM with one node, this machine: daemons of its own, in a folder of its own."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.group import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
SBIN = f"{os.environ['PATH']}:/usr/sbin"  # which only root has in its PATH
CPUS = 2  # whatever the machine has
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """The programs that are not installed (Debian: slurm-wlm, munge)."""
    return [name for name in (*DAEMONS, "srun", "sbatch") if not shutil.which(name, path=SBIN)]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Variables with which `srun` and `sbatch` find it; all daemons are ended at the end."""
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o600)
    host, ports = socket.gethostname().partition(".")[0], (free_port(), free_port())
    user = subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    text = CONFIG.format(host=host, ports=ports, user=user, folder=folder, cpus=CPUS)
    (folder / "slurm.conf").write_text(text)
    known = {"PATH": SBIN, "SLURM_CONF": str(folder / "slurm.conf")}
    ours = [f"--{name}={folder}/{file}" for name, file in (
        ("socket", "munge.socket"), ("key-file", "key"), ("log-file", "munged.log"),
        ("pid-file", "munged.pid"), ("seed-file", "munged.seed"),
    )]  # fmt: skip
    commands = (["munged", "--foreground", "--force", *ours], ["slurmctld", "-D"], ["slurmd", "-D"])
    started = []
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("w") as out:
                started.append(
                    subprocess.Popen(
                        command, env=os.environ | known, stdout=out, stderr=out, cwd=folder
                    )
                )
            time.sleep(1)
        _until_idle(known, folder)
        yield known
    finally:
        for daemon in reversed(started):
            daemon.terminate()
        for daemon in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()


def _until_idle(known: dict[str, str], folder: Path) -> None:
    said = ""
    for _ in range(60):
        asked = ["sinfo", "--noheader", "--format=%T"]
        said = subprocess.run(asked, env=os.environ | known, capture_output=True, text=True).stdout
        if said.strip() == "idle":
            return
        time.sleep(1)
    logs = {file.name: file.read_text()[-1000:] for file in folder.glob("*.[lo]*[gt]")}
    pytest.fail(f"the node is {said!r} after a minute: {logs}")
