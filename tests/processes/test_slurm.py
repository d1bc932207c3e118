"""A whole run under SLURM itself, by launch/slurm.sh and by srun: the same as by one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nt_jax import exits
from tests.processes import slurm
from tests.processes.group import ROOT, Ended, environment, words
from tests.processes.test_run import same_answers, same_tuning

pytestmark = [
    pytest.mark.procs,
    pytest.mark.slow,
    pytest.mark.xdist_group("procs"),
    pytest.mark.skipif(
        bool(slurm.missing()) and os.environ.get("CI") != "true",
        reason=f"not installed: {slurm.missing()}",
    ),
]
MINUTE = 60


@pytest.fixture(scope="module")
def known(tmp_path_factory, programs) -> dict[str, str]:
    """The variables of a job."""
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as found:
        path = f"{Path(sys.executable).parent}:{found['PATH']}"
        yield environment(programs) | found | {"PATH": path, "PYTHONWARNINGS": "ignore"}


def ended(known: dict[str, str], *command: str, seconds: float = 20 * MINUTE) -> Ended:
    done = subprocess.run(
        command, cwd=ROOT, env=known, capture_output=True, text=True, timeout=seconds
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def test_the_launch_file_gives_the_run_of_one_process(one, known, recipe, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "job.txt"
    smaller = ["--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0"]
    told = words("train", recipe, folder, 2)[3:]
    job = ended(known, "sbatch", "--wait", f"--output={log}", *smaller, "launch/slurm.sh", *told)
    assert job.code == exits.DONE, (job, log.read_text()[-3000:])
    assert log.read_text().count("(and report.html)") == 1  # one of them speaks
    same_tuning(folder, one)
    same_answers(folder, one)
    out = tmp_path / "out"
    export = ["python", "-m", "nt_jax.export", "--run", str(folder), "--out", str(out)]
    done = ended(known, "srun", "-n", "2", *export)
    assert done.code == exits.DONE, done
    assert (out / "model.safetensors").read_bytes() == (
        folder / "export/hf/model.safetensors"
    ).read_bytes()


def test_a_mistake_is_one_line_of_each_process(known, tmp_path):
    done = ended(known, "srun", "-n", "2", "python", "-m", "nt_jax.train", "--config", "nothing")
    assert done.code == exits.MISTAKE
    lines = [line for line in done.error.splitlines() if line.startswith("nt_jax: ")]
    assert 1 <= len(lines) <= 2 and "Traceback" not in done.error
    log = tmp_path / "job.txt"
    told = ["--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0"]
    job = ended(known, "sbatch", "--wait", f"--output={log}", *told, "launch/slurm.sh")
    assert job.code == exits.MISTAKE and "no recipe" in log.read_text()
