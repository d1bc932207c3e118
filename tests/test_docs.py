"""The documents name things that exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = sorted(set(re.findall(r"`(nt_jax(?:\.\w+)+)`", (ROOT / "docs/method.md").read_text())))


@pytest.mark.parametrize("name", NAMES)
def test_method_names_exist(name):
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


def test_method_names_were_found():
    assert len(NAMES) > 10


def test_readme_tree_lists_every_module():
    text = (ROOT / "README.md").read_text()
    files = [
        path.name for path in (ROOT / "nt_jax").rglob("*.py") if not path.name.startswith("__")
    ]
    entries = {"attribute.py", "export.py"}  # thin scripts, named as commands instead
    # Rooms are listed as folders until the README is written anew for them.
    rooms = {path.name for path in (ROOT / "nt_jax").rglob("*/*.py")}
    assert [name for name in files if name not in text and name not in entries | rooms] == []


def test_settings_in_method_exist():
    from nt_jax.config.help import setting_table

    keys = set(re.findall(r"`((?:attribution|tune)\.\w+)`", (ROOT / "docs/method.md").read_text()))
    assert keys
    assert keys <= set(setting_table())
