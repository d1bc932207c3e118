"""Answers taken over from the run, and all methods' numbers together.

Every method answers the same prompts with the same engine and is judged by the same judges; each
has stages of its own, so that one more method asks nothing of the others again.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nt_jax.eval.answer_file import RecordFile
from nt_jax.eval.answering import answers_path, choices_path, letters_path
from nt_jax.seal import reading


def take_over(source: Path, known_as: str, name: str, folder: Path) -> None:
    """Start a method's files of answers with those that the run has already given under a name."""
    for path_of in (answers_path, letters_path, choices_path):
        path = path_of(source, known_as)
        file = RecordFile(path_of(folder, name))
        if path.exists() and not file.rows:
            file.append([{**row, "model": name} for row in RecordFile(path).rows.values()])


def merge(folders: Sequence[Path], out: Path) -> str:
    """The files of several evaluations as if all models had been measured together."""
    for name in ("answers.jsonl", "choices.jsonl"):
        with (out / name).open("wb") as joined:
            for folder in folders:
                with (folder / name).open("rb") as part:
                    shutil.copyfileobj(part, joined)
    facts: dict[str, Any] = {}
    for folder in folders:
        with reading(folder / "scores.json"):
            facts = _joined(facts, json.loads((folder / "scores.json").read_text("utf-8")))
    (out / "scores.json").write_text(json.dumps(facts), encoding="utf-8")
    return f"{len(folders)} models together"


def _joined(one: Any, other: Any) -> Any:
    """Two dicts as one, key by key on every level; of anything else the other."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other
    shared = {key: _joined(one[key], other[key]) for key in one.keys() & other.keys()}
    return one | other | shared
