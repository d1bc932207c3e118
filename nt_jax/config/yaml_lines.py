"""YAML read with the line of every key, which the values alone no longer tell."""

import dataclasses
from typing import Any

import yaml

from nt_jax.limits import RECIPE_BYTES, RECIPE_DEPTH, RECIPE_VALUES

KeyPath = tuple[str | int, ...]


class BadYamlError(Exception):
    """A text that is not the YAML we read; `line` counts from 1 and is None where unknown."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclasses.dataclass
class LocatedYaml:
    """A plain value, the line of each key and list item in it, and the keys written twice."""

    value: Any = None
    lines: dict[KeyPath, int] = dataclasses.field(default_factory=dict)
    duplicates: list[tuple[KeyPath, int]] = dataclasses.field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """Stops at brackets that are too deep: the reader looks ahead over a thousand, key by key."""

    def fetch_flow_collection_start(self, TokenClass: type) -> None:
        if self.flow_level >= RECIPE_DEPTH.value:
            raise BadYamlError("nested too deeply", self.line + 1)
        super().fetch_flow_collection_start(TokenClass)


def read_yaml(text: str) -> LocatedYaml:
    """The one document in `text`, with plain dicts, lists and scalars as its value.

    A text that is longer, or has more values, than any recipe is refused (nt_jax/limits.py).
    """
    located = LocatedYaml()
    if len(text) > RECIPE_BYTES.value:
        raise BadYamlError(f"longer than {RECIPE_BYTES.value:,} characters")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            located.value = _build(loader, node, (), located, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        raise BadYamlError(message, mark.line + 1 if mark else None) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-45
        raise BadYamlError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise BadYamlError("nested too deeply") from error
    return located


def _build(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    path: KeyPath,
    located: LocatedYaml,
    above: tuple[yaml.Node, ...],
) -> Any:
    """The value of one node; `above` holds the nodes around it, since an alias can form a loop."""
    line = node.start_mark.line + 1
    located.lines.setdefault(path, line)
    if len(located.lines) > RECIPE_VALUES.value:
        raise BadYamlError(f"more than {RECIPE_VALUES.value:,} values, aliases written out", line)
    if any(node is outer for outer in above):
        raise BadYamlError("an alias that contains itself", line)
    above = (*above, node)
    if isinstance(node, yaml.SequenceNode):
        return [
            _build(loader, item, (*path, index), located, above)
            for index, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(loader, node, line)
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, key_line = key_node.value, key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise BadYamlError("a key must be a word, not a list or a section", key_line)
        if key in mapping:
            located.duplicates.append(((*path, key), key_line))
            continue
        located.lines[(*path, key)] = key_line
        mapping[key] = _build(loader, value_node, (*path, key), located, above)
    return mapping


def _scalar(loader: yaml.SafeLoader, node: yaml.Node, line: int) -> Any:
    """The word, number or date of a node. What Python says of one it cannot read is no remedy."""
    try:
        return loader.construct_object(node)
    except (LookupError, AttributeError, TypeError, ValueError, OverflowError) as error:
        kind, text = node.tag.rpartition(":")[2], str(node.value)
        shown = repr(text) if len(text) <= 60 else f"{text[:57]!r}... ({len(text):,} letters)"
        said = f"{shown} is no {kind} that is read. Correct it; a text goes in quotes"
        raise BadYamlError(said, line) from error


def as_yaml(text: str) -> str:
    """A word of the command line as YAML reads it back, whatever it holds."""
    return '"' + "".join(f"\\U{ord(letter):08x}" for letter in text) + '"'
