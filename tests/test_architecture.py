"""The rooms of docs/architecture.md: imports run one way, functions take what they use."""

import ast
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nt_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
DOORS = {*PACKAGE.rglob("__main__.py"), PACKAGE / "attribute.py", PACKAGE / "factors.py",
         PACKAGE / "reproduce.py"}  # fmt: skip
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
ROOMS = next(c for c in CONTRACTS["contracts"] if c["type"] == "layers")
FLOOR = {
    room: floor for floor, line in enumerate(ROOMS["layers"]) for room in re.findall(r"\w+", line)
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of ours, wherever it stands in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.split(".")[0] == "nt_jax":
                yield node.lineno, name.split(".")[1]


def test_every_file_lies_in_a_room():
    rooms = {
        room_of(path) for path in FILES if path not in DOORS and path != PACKAGE / "__init__.py"
    }
    assert rooms == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    if path == PACKAGE / "__init__.py":
        return
    if path in DOORS:
        assert [room for _, room in imported(path)] == ["cli"]
        return
    here = room_of(path)
    back = [
        f"line {line}: {room}"
        for line, room in imported(path)
        if room != here and FLOOR[room] <= FLOOR[here]
    ]
    assert back == []


def test_import_linter_keeps_its_contracts():
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program, "import-linter is in the extra `test`"
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_no_contract_exempts_more_than_the_doors():
    assert ROOMS["exhaustive"] and ROOMS["ignore_imports"] == ["nt_jax.**.__main__ -> nt_jax.cli"]
    assert set(ROOMS["exhaustive_ignores"]) == {
        "__main__",
        "attribute",
        "factors",
        "recipes",
        "reproduce",
    }


def test_the_page_has_the_rooms_in_the_order_of_the_contract():
    page = (ROOT / "docs/architecture.md").read_text().split("## One run")[0]
    table = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = [set(re.findall(r"`(\w+)`", cell)) for cell in table]
    assert named == [set(re.findall(r"\w+", line)) for line in ROOMS["layers"]]


def test_the_page_names_files_that_exist():
    page = (ROOT / "docs/architecture.md").read_text()
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|yaml))`", page):
        assert (PACKAGE / name).is_file() or (ROOT / name).is_file(), name


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """The functions and methods of a file, those inside functions left out."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        for node in ast.iter_child_nodes(nodes.pop()):
            if isinstance(node, ast.FunctionDef):
                yield node
            else:
                nodes.append(node)


def parameters(function: ast.FunctionDef) -> list[ast.arg]:
    every = function.args
    listed = [*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg]
    return [arg for arg in listed if arg is not None and arg.arg not in ("self", "cls")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_are_typed(path):
    untyped = [
        function.name
        for function in functions(path)
        if not function.name.startswith("_")
        and (function.returns is None or any(a.annotation is None for a in parameters(function)))
    ]
    assert untyped == []


def test_the_whole_config_is_known_to_the_run_and_the_comparison_only():
    holders = {"cli", "run", "compare", "sweep", "doctor", "config"}
    for path in FILES:
        if room_of(path) not in holders:
            for function in functions(path):
                annotated = [function.returns, *(arg.annotation for arg in parameters(function))]
                words = " ".join(ast.unparse(note) for note in annotated if note is not None)
                assert "RunConfig" not in words, f"{path}: {function.name}"


KINDS = {
    "settings": {"config", "settings", "RunConfig"},
    "screen": {"console", "Console"},
    "weights": {"model", "lm", "weights", "session", "ChatModel", "LanguageModel"},
    "judge": {"judge", "judges", "Judge"},
    "prompts": {"prompts", "tests", "choices", "Tests", "Validation"},
}


def test_nothing_holds_settings_screen_weights_judge_and_prompts_at_once():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                words = {
                    word
                    for part in ast.walk(node)
                    if isinstance(part, ast.AnnAssign)
                    or (isinstance(part, ast.Attribute) and ast.unparse(part.value) == "self")
                    for word in re.findall(r"\w+", ast.unparse(part))
                }
                held = [kind for kind, names in KINDS.items() if words & names]
                assert len(held) < 4, f"{path}: {node.name} holds {', '.join(held)}"


def test_files_are_short():
    lines = [len(path.read_text(encoding="utf-8").splitlines()) for path in FILES]
    assert max(lines) <= 300 and statistics.median(lines) <= 116


def test_few_lines_escape_the_formatter():
    assert sum(path.read_text().count("# fmt: skip") for path in FILES) < 81
