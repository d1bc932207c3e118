"""Reading a recipe and its overrides into one RunConfig, with every problem in one ConfigError."""

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from nt_jax.config.base import DatasetConfig
from nt_jax.config.help import choices, sections, setting_table
from nt_jax.config.schema import RunConfig
from nt_jax.config.test_sets import TestSet
from nt_jax.config.yaml_lines import BadYamlError, KeyPath, LocatedYaml, read_yaml
from nt_jax.errors import ConfigError
from nt_jax.limits import RECIPE_BYTES, read_within

RECIPES = Path(__file__).parents[1] / "recipes"
COMMAND_LINE = "command line"
OWN_SETS = ("eval", "extra")  # below it, each key is the name of a TestSet


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package, sorted; those of a folder as FOLDER/NAME."""
    found = (path.relative_to(RECIPES).with_suffix("") for path in RECIPES.rglob("*.yaml"))
    return sorted(path.as_posix() for path in found)


def load_config(name_or_path: str | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked config of a recipe name or YAML file, after dotted overrides like `a.b=c`.

    Without a recipe the overrides say all that has no default.
    """
    path = None if name_or_path is None else find_recipe(name_or_path)
    draft = _Draft(COMMAND_LINE if path is None else _shown(path))
    if path is not None:
        draft.read_file(path)
    for override in overrides:
        draft.override(override)
    if draft.raw.get("name") is None:
        draft.raw["name"] = "default" if path is None else _file_name(path)
    if draft.raw.get("model") is None:
        draft.raw["model"] = {}  # so that the message names the key to write: model.source
    try:
        config = RunConfig.model_validate(draft.raw)
    except ValidationError as error:
        draft.problems += [draft.explain(problem) for problem in _first_causes(error)]
    if draft.problems:
        raise ConfigError("\n".join(draft.problems))
    return config


def find_recipe(name_or_path: str) -> Path:
    """The YAML file that a recipe name or a path stands for."""
    names = recipe_names()
    if name_or_path in names:
        return RECIPES / f"{name_or_path}.yaml"
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        beside = [str(other) for other in path.parent.glob("*.y*ml")]
        if path.exists():
            kind = "a folder, not a YAML file" if path.is_dir() else "no regular file"
            raise ConfigError(f"config file '{path}' is {kind}")
        raise ConfigError(f"config file '{path}' does not exist{_did_you_mean(str(path), beside)}")
    raise ConfigError(
        f"no recipe is called '{name_or_path}' ({COMMAND_LINE})"
        f"{_did_you_mean(name_or_path, names) or '.'} Recipes: {', '.join(names)}. "
        "Or give the path of a YAML file."
    )


class _Draft:
    """Values not yet checked, where each was written, and the problems met so far."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.raw: dict[str, Any] = {}
        self.origin: dict[KeyPath, str] = {(): file}
        self.problems: list[str] = []

    def read_file(self, path: Path) -> None:
        """Fill the draft from a YAML file; one that cannot be read ends the search for problems."""
        try:
            located = read_yaml(read_within(path, RECIPE_BYTES).decode("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"config file '{self.file}' cannot be read: {error}") from error
        except BadYamlError as error:
            line = f":{error.line}" if error.line else ""
            raise ConfigError(f"not valid YAML ({self.file}{line}): {error}") from error
        if not isinstance(located.value, dict | None):
            raise ConfigError(f"not a config ({self.file}:1): write 'key: value' lines")
        self.raw = located.value or {}
        self.origin |= {key: f"{self.file}:{line}" for key, line in located.lines.items() if key}
        self._note_duplicates(located)

    def override(self, text: str) -> None:
        """Set one dotted key; its value is read as YAML and replaces what was there."""
        dotted, equals, value_text = (part.strip() for part in text.partition("="))
        keys, shown = tuple(dotted.split(".")), text if len(text) <= 80 else f"{text[:77]}..."
        if not equals or not all(keys):
            hint = _did_you_mean(dotted, setting_table())
            self.problems.append(f"'{shown}' ({COMMAND_LINE}): write section.key=value{hint}")
            return
        try:
            located = read_yaml(value_text)
        except BadYamlError as error:
            self.problems.append(f"'{shown}' ({COMMAND_LINE}): not valid YAML: {error}")
            return
        section: Any = self.raw
        for depth, key in enumerate(keys[:-1], start=1):
            if section.get(key) is None:
                section[key] = {}
                self.origin[keys[:depth]] = COMMAND_LINE
            section = section[key]
            if not isinstance(section, dict):
                outer = f"'{_dotted(keys[:depth])}' ({self.where(keys[:depth])})"
                self.problems.append(f"'{shown}' ({COMMAND_LINE}): {outer} is not a section")
                return
        section[keys[-1]] = located.value
        kept = {key: at for key, at in self.origin.items() if key[: len(keys)] != keys}
        self.origin = (
            kept | {(*keys, *key): COMMAND_LINE for key in located.lines} | {keys: COMMAND_LINE}
        )
        self._note_duplicates(located, keys)

    def where(self, key: KeyPath) -> str:
        """'file:line' or 'command line' of a key, or of the nearest section around it."""
        return next(self.origin[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.origin)

    def _note_duplicates(self, located: LocatedYaml, prefix: KeyPath = ()) -> None:
        for key, line in located.duplicates:
            at = f"{self.file}:{line}" if not prefix else COMMAND_LINE
            first = self.where((*prefix, *key))
            self.problems.append(
                f"duplicate key '{_dotted((*prefix, *key))}' ({at}): already set at {first}"
            )

    def explain(self, problem: Mapping[str, Any]) -> str:
        """One line for one pydantic error: what, where, and the nearest valid choice."""
        key: KeyPath = tuple(part for part in problem["loc"] if part != "[key]")
        value = problem["input"]
        if problem["type"] == "conflict":
            key, value = tuple(problem["ctx"]["key"].split(".")), problem["ctx"]["value"]
        name, at = _dotted(key), self.where(key)
        match problem["type"]:
            case "extra_forbidden":
                return f"unknown key '{name}' ({at}){_nearest_key(key)}"
            case "missing":
                about = (_field(key).description or "").split()  # over several lines in the code
                return f"{name} is missing ({at}): {' '.join(about)}"
            case "literal_error":
                allowed = choices(_field(key))
                hint = _did_you_mean(str(value), allowed) or f": choose {' or '.join(allowed)}"
                return f"{name} = {_brief(value)} ({at}){hint}"
            case "unknown_name":
                known = problem["ctx"]["known"]
                hint = _did_you_mean(str(value), known) or f": known are {', '.join(known)}"
                return f"{name} = {_brief(value)} ({at}){hint}"
            case "model_type":
                message = "must be a section of 'key: value' lines"
            case "tuple_type":
                message = "must be a list: [a, b], or [a] of one"
            case "string_type":
                message = "must be text; put it in quotes"
            case "too_short" | "string_too_short":
                message = "must not be empty"
            case "string_pattern_mismatch":
                message = "may hold letters, digits, '.', '_' and '-', a letter or digit first"
            case _:
                message = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ")
        message = re.sub(r"^should ", "must ", message)
        return f"{name} = {_brief(value)} ({at}): {message}"


def _first_causes(error: ValidationError) -> Iterator[Mapping[str, Any]]:
    """The errors of pydantic, less those that only repeat what is wrong with a list item."""
    found = error.errors()
    for problem in found:
        inside = (p["loc"][:-1] == problem["loc"] for p in found if p["loc"])
        if not (problem["type"] == "too_short" and any(inside)):
            yield problem


def _field(key: KeyPath) -> FieldInfo:
    """The schema of a key; keys of a test set of the user's lie outside the table."""
    named = [part for part in key if isinstance(part, str)]
    if named[: len(OWN_SETS)] == [*OWN_SETS] and len(named) > len(OWN_SETS) + 1:
        within = _own_fields(named[:-1])
        return within.get(named[-1]) or TestSet.model_fields[named[len(OWN_SETS) + 1]]
    return setting_table()[_dotted(named)]


def _own_fields(section: Sequence[str | int]) -> dict[str, FieldInfo]:
    """What may stand in a test set of the user's, or in its section `templates`."""
    templates = len(section) > len(OWN_SETS) + 1 and section[len(OWN_SETS) + 1] == "templates"
    return (DatasetConfig if templates else TestSet).model_fields


def _nearest_key(key: KeyPath) -> str:
    """The hint for an unknown key: its neighbours first, then keys of any section."""
    if (written := _dotted(key)) in setting_table():
        section, _, last = written.rpartition(".")
        return f": in a recipe it stands as '{last}:' below '{section}:'"
    parent, name = _dotted(key[:-1]), str(key[-1])
    if key[: len(OWN_SETS)] == OWN_SETS:
        fields = _own_fields(key[:-1])
        what = "a test set has" if fields is TestSet.model_fields else "templates have"
        return _did_you_mean(name, fields) or f": {what} {', '.join(fields)}"
    schema = dict(sections(RunConfig))
    neighbours = list(schema[parent].model_fields)
    if close := difflib.get_close_matches(name, neighbours, n=1):
        return f": did you mean '{_dotted((*key[:-1], close[0]))}'?"
    everywhere = {dotted.rpartition(".")[2]: dotted for dotted in setting_table()}
    if close := difflib.get_close_matches(name.rpartition(".")[2], everywhere, n=1):
        return f": did you mean '{everywhere[close[0]]}'?"
    holder = f"section '{parent}'" if parent else "a config"
    return f": {holder} has {', '.join(neighbours)}"


def _did_you_mean(word: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f": did you mean '{close[0]}'?" if close else ""


def _dotted(key: Iterable[str | int]) -> str:
    """A key path as the user writes it: eval.datasets[0]."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def _brief(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of over 4,300 digits, but reads 0xff... of them
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shown(path: Path) -> str:
    """A path as short as it can be said from the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _file_name(path: Path) -> str:
    """A run name made of the recipe's file name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "run"
    if path.stem.isascii():
        return name
    return f"{name}-{hashlib.sha256(path.stem.encode()).hexdigest()[:6]}"  # letters are missing
