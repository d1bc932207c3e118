"""A hash of all that is written in capitals in some modules: patterns, tables, numbers, weights."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


def constants_hash(modules: Iterable[ModuleType], *others: str) -> str:
    """sha256 of the modules' constants; moving or reformatting code does not change it."""
    tables = {
        module.__name__: {
            name: value for name, value in vars(module).items() if name.lstrip("_").isupper()
        }
        for module in modules
    }
    text = json.dumps([tables, others], sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    """A pattern, a set of words or a path as JSON can hold it."""
    if isinstance(value, re.Pattern):
        return value.pattern
    return sorted(value) if isinstance(value, frozenset) else Path(str(value)).name
