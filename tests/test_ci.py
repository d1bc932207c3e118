"""`.ci/run`: what it calls, and what it does where there is no browser."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CALLED = ["test", "test-export", "test-web", "test-faults", "test-procs"]


def programs(folder: Path, **scripts: str) -> Path:
    """A folder of these programs, and of the few plain ones that the script needs."""
    for name in ("bash", "dirname", "env", "mktemp", "tail"):
        (folder / name).symlink_to(Path("/usr/bin") / name)
    scripts = {"id": "echo 0", "make": "echo make $1", **scripts}
    for name, script in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return folder


def said(folder: Path, **environ: str) -> list[str]:
    """The lines of a run with these programs alone; it ends well."""
    script = ROOT / ".ci" / "run"
    done = subprocess.run(
        [script], env={"PATH": str(folder), "TMPDIR": str(folder), **environ}, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_calls_targets_that_exist(tmp_path):
    lines = said(programs(tmp_path, chromium="exit 0"))
    assert lines == [f"make {target}" for target in CALLED]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in CALLED)


def test_a_part_that_fails_ends_it(tmp_path):
    folder = programs(tmp_path, chromium="exit 0", make="echo make $1; [ $1 != test-web ]")
    done = subprocess.run(
        [ROOT / ".ci" / "run"], env={"PATH": str(folder)}, text=True, capture_output=True
    )
    assert done.returncode != 0 and done.stdout.splitlines() == [f"make {t}" for t in CALLED[:3]]


@pytest.mark.parametrize("user", ["0", "1000"])
def test_a_missing_browser_is_installed(tmp_path, user):
    log = tmp_path / "log"
    folder = programs(
        tmp_path, apt_get=f'echo "$@" >> {log}', sudo='shift; exec "$@"', id=f"echo {user}"
    )
    assert said(folder)[0] == ".ci/run: installing chromium (once)"
    assert log.read_text().splitlines() == ["update", "install -y chromium"]


def test_one_that_cannot_be_installed_is_one_clear_line(tmp_path):
    folder = programs(tmp_path, apt_get="echo 'E: no such package' >&2; exit 100")
    _, second, *rest = said(folder)
    assert "could not install chromium (E: no such package)" in second
    assert "CHROMIUM=/path/to/chrome .ci/run" in second
    assert rest == [f"make {target}" for target in CALLED]


def test_a_browser_of_ones_own_is_taken(tmp_path):
    lines = said(programs(tmp_path), CHROMIUM=os.devnull)
    assert lines == [f"make {target}" for target in CALLED]
