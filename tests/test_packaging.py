"""The wheel: complete, installable without torch, and every dependency bounded for a reason."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built in a copy and without a network."""
    pytest.importorskip("hatchling", reason="hatchling is in the extra 'test'")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "nt_jax", source / "nt_jax", ignore=ignore)
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel):
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("nt_jax/")}
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "nt_jax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == files
    assert "nt_jax/recipes/smollm2-135m.yaml" in packed
    assert any(re.fullmatch(r"nt_jax/data/demo/.*\.jsonl", name) for name in packed)


def test_the_installed_wheel_finds_its_recipes_without_torch(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"sys.path.insert(0, {str(site)!r})\n"
        "import nt_jax; from nt_jax.config.load import load_config\n"
        "print(nt_jax.__file__, nt_jax.__version__, load_config('smollm2-135m').name)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    version = wheel.name.split("-")[1]
    assert done.stdout.split() == [f"{site}/nt_jax/__init__.py", version, "smollm2-135m"]


def test_the_console_script_is_the_command_line(wheel):
    (entry,) = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("entry_points.txt")]
    assert "nt-jax = nt_jax.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()


def test_every_dependency_has_bounds_and_a_reason():
    extras = PROJECT["optional-dependencies"]
    for requirement in PROJECT["dependencies"] + extras["docs"] + extras["web"]:
        line = next(line for line in PYPROJECT.splitlines() if f'"{requirement}"' in line)
        assert re.search(r",\s+# \S+", line), f"no reason beside {requirement}"
        assert ">=" in requirement, f"no floor for {requirement}"
        assert "<" in requirement or ";" in requirement, f"no cap for {requirement}"


def test_torch_is_for_tests_only():
    names = [re.split(r"[<>=;\[ ]", line)[0] for line in PROJECT["dependencies"]]
    assert not {"torch", "peft", "accelerate", "tensorflow"} & set(names)
    assert any(line.startswith("torch") for line in PROJECT["optional-dependencies"]["test"])


def test_the_installed_packages_satisfy_the_bounds():
    requirements = pytest.importorskip("packaging.requirements")
    metadata = pytest.importorskip("importlib.metadata")
    for line in PROJECT["dependencies"]:
        requirement = requirements.Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            assert metadata.version(requirement.name) in requirement.specifier, line
