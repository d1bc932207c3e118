"""The wheel in an empty environment of the runtime lock, without torch: a tiny run ends there."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests import tiny
from tests.run import small
from tests.test_packaging import wheel  # noqa: F401  a fixture

ROOT = Path(__file__).parents[1]


def done(*words: str | Path, **more) -> subprocess.CompletedProcess[str]:
    found = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, **more)
    assert found.returncode == 0, f"{words}\n{found.stdout[-1500:]}\n{found.stderr[-3000:]}"
    return found


@pytest.mark.slow
@pytest.mark.network
def test_a_tiny_run_in_an_empty_environment_without_torch(wheel, tmp_path):  # noqa: F811
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps")
    done(*pip, "--require-hashes", "-r", ROOT / "requirements.lock")
    done(*pip, wheel)
    done(python, "-m", "pip", "check")
    done(python, "-c", "import importlib.util as u; assert u.find_spec('torch') is None")
    model = tiny.copy("smollm2", tmp_path / "model")
    tiny.edit_json(model / "config.json", max_position_embeddings=1024)
    (tmp_path / "r.yaml").write_text(f"model: {{source: {model}}}\n")
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"NT_JAX_CACHE": "off"}
    words = ["--config", "r.yaml", *small.SETTINGS, "--run-dir", "run"]
    said = done(home / "bin" / "nt-jax", "train", *words, cwd=tmp_path, env=environ).stdout
    assert "report" in said and (tmp_path / "run" / "export" / "hf" / "config.json").is_file()
    assert sys.prefix != str(home)


def test_the_locks_have_hashes_and_torch_stands_outside():
    runtime, everything = (
        (ROOT / name).read_text() for name in ("requirements.lock", "requirements-test.lock")
    )
    for text in (runtime, everything):
        entries = [line for line in text.splitlines() if line and line[0] not in "# "]
        assert entries and all("==" in line and line.endswith("\\") for line in entries)
        blocks = text.replace("\\\n", " ").splitlines()
        assert all("--hash=sha256:" in line for line in blocks if line and line[0] != "#")
        names = {line.split("==")[0] for line in entries}
        assert "hatchling" in names and "torch" not in names
        assert not [name for name in names if name.startswith(("nvidia", "triton"))]
    mine, all_of_them = (  # for which systems may be wider where the tests need more
        {line.rstrip("\\").split(";")[0].strip() for line in text.splitlines() if "==" in line}
        for text in (runtime, everything)
    )
    assert mine <= all_of_them


def test_the_range_of_torch_is_stated_once_and_the_same():
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "TORCH :=" in line]
    wanted = line.removeprefix("TORCH := ")
    assert f'"{wanted}"' in (ROOT / "pyproject.toml").read_text()
