"""Answers and verdicts on disk, one JSON object a line, so that a killed run loses one batch."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from nt_jax.atomic import write_atomic
from nt_jax.data.prompts import to_json
from nt_jax.limits import check_regular
from nt_jax.seal import damaged, reading


class Question(Protocol):
    """A test prompt or choice question."""

    @property
    def dataset(self) -> str:
        """Its test set."""
        ...

    @property
    def id(self) -> str:
        """What it is called there."""
        ...


class RecordFile:
    """A JSONL file that only grows; each record is known by its values under `keys`."""

    def __init__(self, path: Path, keys: Sequence[str] = ("dataset", "id")):
        self.path, self.keys = path, tuple(keys)
        self.rows: dict[tuple, dict] = {}
        if path.exists():
            with reading(path):
                check_regular(path)
                # A kill may cut the last line within a letter. Not splitlines: answers hold U+2028.
                with path.open(encoding="utf-8", errors="replace") as file:
                    whole = list(file)
                kept = [line for line in whole if line.endswith("}\n")]  # a cut last line goes
                self.rows = {self.key(row): row for row in map(json.loads, kept)}
            if kept != whole:
                write_atomic(path, "".join(kept).encode())

    def key(self, row: dict) -> tuple:
        """What a record is known by."""
        return tuple(row[name] for name in self.keys)

    def missing(self, wanted: Iterable, key: Callable[..., tuple]) -> list:
        """Those of `wanted` that have no record yet; `key` gives what each is known by."""
        return [item for item in wanted if key(item) not in self.rows]

    def append(self, rows: Sequence[dict]) -> None:
        """Add records and bring them to disk before anything else happens."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            file.flush()
            os.fsync(file.fileno())
        self.rows |= {self.key(row): row for row in rows}

    def in_order(self, keys: Iterable[tuple]) -> list[dict]:
        """The records of these keys."""
        try:
            return [self.rows[key] for key in keys]
        except KeyError as error:
            raise damaged(self.path, error) from None


def asked(item: Question) -> tuple[str, str]:
    """What a test prompt or choice question is known by."""
    return item.dataset, item.id


def answer_rows(model: str, prompts: Sequence, answers: Sequence[str]) -> list[dict]:
    """One record per answered prompt, a conversation as its list of messages."""
    return [
        {**p.record(), "prompt": to_json(p.prompt), "model": model, "answer": text}
        for p, text in zip(prompts, answers, strict=True)
    ]
