"""The documents name things that exist."""

import importlib
import math
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
NAMES = sorted(set(re.findall(r"`(nt_jax(?:\.\w+)+)`", (ROOT / "docs/method.md").read_text())))


@pytest.mark.parametrize("name", NAMES)
def test_method_names_exist(name):
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


def test_method_names_were_found():
    assert len(NAMES) > 10


def tree() -> dict[str, set[str]]:
    """Folder below nt_jax/ -> the Python files that the README's tree names in it."""
    block = (ROOT / "README.md").read_text().split("```\nnt_jax/\n")[1].split("```")[0]
    rooms: dict[str, set[str]] = {"": set()}
    room = ""
    for line in block.splitlines():
        if folder := re.match(r"  (\S+)/ ", line):
            room = folder[1]
            rooms[room] = set()
        else:
            rooms[room] |= set(line.split())
    return rooms


def test_readme_tree_is_that_of_the_folders():
    package, found = ROOT / "nt_jax", {"recipes": set()}
    for path in package.rglob("*.py"):
        room = path.parent.relative_to(package).as_posix().removeprefix(".")
        names = found.setdefault(room, set())
        doors = [package / name for name in ("attribute.py", "factors.py", "reproduce.py")]
        if not path.name.startswith("__") and path not in doors:
            names.add(path.name)
    assert tree() == found


def test_files_named_in_the_documents_exist():
    for page in (ROOT / "docs").glob("*.md"):
        for name in re.findall(r"`([a-z_0-9/]+\.py)`", page.read_text()):
            known = [*(ROOT / "nt_jax").rglob(name), *ROOT.glob(name)]
            assert known, f"{page.name}: {name}"


def test_settings_in_method_exist():
    from nt_jax.config.help import setting_table

    keys = set(re.findall(r"`((?:attribution|tune)\.\w+)`", (ROOT / "docs/method.md").read_text()))
    assert keys
    assert keys <= set(setting_table())


def commands() -> list[str]:
    """Every line of a bash block of the documents that calls us."""
    blocks = [
        block
        for page in sorted((ROOT / "docs").glob("*.md"))
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)
    ]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return sorted({line.split(" #")[0] for line in lines if line.startswith("python -m nt_jax.")})


def test_commands_were_found():
    assert len(commands()) > 10


@pytest.mark.parametrize("line", commands())
def test_the_documents_commands_have_options_and_settings_that_exist(line):
    from nt_jax.config.help import setting_table
    from nt_jax.options import parser_of

    _, _, module, *words = shlex.split(line)
    options = parser_of(module.removeprefix("nt_jax."), "program").read(words)
    settings = [word.split("=")[0] for word in getattr(options, "overrides", [])]
    for key in settings:
        assert any(key == known or key.startswith(f"{known}.") for known in setting_table()), key


def late_lists(text: str) -> list[str]:
    """Lists and tables right behind a line of text, which the site takes for more of that text."""
    plain = re.sub(r"^```.*?^```|<!--.*?-->", "", text, flags=re.M | re.S)
    found = []
    for block in re.split(r"\n\s*\n", plain):
        lines = block.strip("\n").splitlines()
        while lines and lines[0].startswith("#"):
            lines.pop(0)
        for mark in (r"(?:- |\d+\. )", r"\s*\|"):
            wanted = [n for n, line in enumerate(lines) if re.match(mark, line)]
            if wanted and wanted[0] != 0:
                found.append(lines[wanted[0]])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lists_and_tables_begin_behind_an_empty_line(page):
    assert late_lists(page.read_text()) == []
    assert late_lists("text\n- one\n\ntext\n| a |\n|---|\n") == ["- one", "| a |"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped_at_100_columns(page):
    """But for tables, code, pictures, comments, and what is one long word or span of code."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", page.read_text(), flags=re.DOTALL)
    spared = re.compile(r"\s*(\||!\[)|    |\s*`[^`]*`\W?$|\s*\S+$")
    long = [line for line in text.splitlines() if len(line) > 100 and not spared.match(line)]
    assert not long, long


def test_the_sizes_of_recipes_are_those_of_the_code():
    from nt_jax.checkpoints.keymap import hf_shapes
    from nt_jax.config.load import load_config, recipe_names
    from nt_jax.doctor.shapes import SHAPES, published
    from nt_jax.run.memory import stage_memory

    page = (ROOT / "docs/models.md").read_text()
    rows = re.findall(r"^\| `([\w.-]+)` \| (.* M \| .*) \|$", page, re.M)
    assert sorted(dict(rows)) == [name for name in sorted(recipe_names()) if "/" not in name]
    for name, said in rows:
        config = load_config(name)
        model = (published(config.model.source) or SHAPES[name]).config
        parameters = sum(math.prod(shape) for shape in hf_shapes(model).values())
        held = stage_memory(config, model, 80_000_000_000).values()
        largest = max(each.total for each in held)
        chosen = f"{config.neurons.safety:,} + {config.neurons.utility:,}"
        assert said == (
            f"{parameters / 1e6:,.0f} M | {model.layers} x {model.neurons:,} | "
            f"{'yes' if model.tied else 'no'} | {config.model.dtype} | {chosen} | "
            f"{largest / 1e9:.1f} GB"
        )


def test_the_picture_in_front_is_light():
    picture = ROOT / "docs/images/report.png"
    assert picture.stat().st_size < 300_000
    for page, name in (
        ("README.md", "docs/images/report.png"),
        ("docs/index.md", "images/report.png"),
    ):
        assert f"]({name})" in (ROOT / page).read_text()
