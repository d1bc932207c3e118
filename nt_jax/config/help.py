"""The table of all settings, made from the schema: for `--help` and for hints about typos."""

import json
import textwrap
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nt_jax.config.schema import RunConfig

WIDTH = 96


def sections(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Dotted name and class of the section itself and of every section below it."""
    yield prefix, schema
    for key, info in schema.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from sections(info.annotation, f"{prefix}.{key}" if prefix else key)


def setting_table(schema: type[BaseModel] = RunConfig) -> dict[str, FieldInfo]:
    """Every settable key as 'section.key', in the order of the schema."""
    nested = dict(sections(schema))
    return {
        dotted: info
        for prefix, section in nested.items()
        for key, info in section.model_fields.items()
        if (dotted := f"{prefix}.{key}" if prefix else key) not in nested
    }


def choices(field: FieldInfo) -> list[str]:
    """The words that a Literal field accepts, also inside a tuple or with null; [] for others."""
    kind, words = field.annotation, []
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    for part in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        words += map(str, get_args(part)) if get_origin(part) is Literal else []
    return [*words, "null"] if words and NoneType in get_args(kind) else words


def settings_help() -> str:
    """Every section and key with default, bounds and description, one paragraph each."""
    nested = dict(sections(RunConfig))
    lines = ["settings, as they stand in a recipe or on the command line:"]
    shown: str | None = None
    for dotted, field in setting_table().items():
        section = dotted.rpartition(".")[0]
        if section != shown:
            shown = section
            lines += ["", _heading(section, nested)]
        value = "(required)" if field.is_required() else _yaml(field.default)
        setting, bounds = f"  {dotted}={value}", _bounds(field)
        fits = len(setting) + len(bounds) <= WIDTH
        lines += [setting + bounds] if fits else [setting, f"   {bounds}"]
        lines += textwrap.wrap(
            field.description or "", WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)


def _heading(section: str, nested: dict[str, type[BaseModel]]) -> str:
    """A section's name and purpose; a class used twice says its purpose where it is used."""
    outer, _, name = section.rpartition(".")
    if not name:
        return f"run: {nested[section].__doc__}"
    about = nested[outer].model_fields[name].description or nested[section].__doc__
    return f"{section}: {about}"


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    return value if isinstance(value, str) else json.dumps(value)


def _bounds(field: FieldInfo) -> str:
    """What a key accepts beyond its type, e.g. '   (0 to 1)' or '   (2 or 1)'."""
    allowed = choices(field)
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in signs.items()
        if getattr(rule, name, None) is not None
    ]
    text = " or ".join(allowed) if allowed else ", ".join(limits)
    return f"   ({text})" if text else ""
