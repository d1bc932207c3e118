"""A target of the fuzzer: good input, how it is damaged, what reads it, and who else can say."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests import tiny
from tests.faults import damage

Draw = st.DataObject


@dataclass(frozen=True)
class Target:
    """`make(folder)` writes good input and returns what is read; `hurt(data, path)` damages it."""

    make: Callable[[Path], Path]
    hurt: Callable[[Draw, Path], None]
    read: Callable[[Path], Any]
    oracle: Callable[[Path, Any], None] = lambda path, found: None
    warm: bool = True  # whether it may be read in the parent first, which would start jax


def model_folder(**options) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        made = tiny.copy("smollm2", folder / "model", **options)
        (made / "evil.py").write_text(damage.CODE)  # custom code is never run
        return made

    return make


def written(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return make
