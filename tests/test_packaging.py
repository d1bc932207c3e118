"""The wheel: complete, installable without torch, and every dependency bounded for a reason."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from nt_jax.version import __version__

SITE = str(Path(yaml.__file__).parents[1])
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


# --- around the wheel ----------------------------------------------------------------------------


def test_extras_links_and_pythons():
    assert PROJECT["optional-dependencies"]["cuda13"] == ["jax[cuda13]"]
    assert PROJECT["urls"] and all(url.startswith("https://") for url in PROJECT["urls"].values())
    versions = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if " 3." in line}
    assert versions == {"3.11", "3.12", "3.13"}


def test_the_citation_names_this_version():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cff["version"] == __version__ and cff["license"] == PROJECT["license"]
    assert cff["cff-version"] == "1.2.0" and cff["authors"] and cff["message"] and cff["title"]
    (paper,) = cff["references"]
    assert paper["url"] == PROJECT["urls"]["Paper"]
    assert paper["title"].startswith("NeuronTune: Fine-Grained Neuron Modulation")
    people = [f"{who['given-names']} {who['family-names']}" for who in paper["authors"]]
    assert len(people) == 7 and (people[0], people[-1]) == ("Birong Pan", "Tieyun Qian")


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words) of the Dockerfile, in order."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    return [
        (name, words)
        for name, _, words in (line.partition(" ") for line in lines if line.strip())
        if name != "#"
    ]


@pytest.mark.parametrize("extra", ["", "cuda12"])
def test_the_run_lines_of_the_dockerfile_work_as_a_script(tmp_path, extra):
    """In a folder of its own, offline: no dependencies are fetched, they are those of the tests."""
    pytest.importorskip("hatchling", reason="hatchling is in the extra 'test'")
    root, script = tmp_path / "root", [f"EXTRA={extra}"]
    root.mkdir()
    for name, words in instructions():
        if name == "COPY":
            *sources, to = words.split()
            for source in sources:
                copy, target = (ROOT / source), root / to
                if copy.is_dir():
                    shutil.copytree(copy, target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(copy, target)
        elif name == "RUN":
            script.append(words)
    assert len(script) == 6
    bare = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = bare | {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": SITE,
        "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0",
    }  # fmt: skip
    done = subprocess.run(
        ["sh", "-e"], input="\n".join(script), cwd=root, env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == f"nt_jax {__version__}"
    installed = [*root.glob("venv/lib/python*/site-packages/nt_jax/recipes/smollm2-135m.yaml")]
    assert len(installed) == 1


def test_the_dockerfile_is_marked_and_enters_the_command_line():
    text = (ROOT / "Dockerfile").read_text()
    assert text.startswith("# Never built")
    found = dict(instructions())
    folder = next(words for name, words in instructions() if name == "WORKDIR")
    assert found["ENTRYPOINT"] == f'["{folder}/venv/bin/nt-jax"]'
    wanted = next(words for name, words in instructions() if name == "ARG")
    assert wanted == "EXTRA="  # no extra unless asked for
