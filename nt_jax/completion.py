"""What editors and shells complete by: the settings as a JSON schema, the command line for a shell.

`nt-jax schema > nt_jax.schema.json`, and as the first line of a recipe
`# yaml-language-server: $schema=nt_jax.schema.json`. `nt-jax completion bash` is made by shtab.
"""

import argparse
from typing import Any

from nt_jax.config.help import setting_table
from nt_jax.config.load import recipe_names
from nt_jax.config.schema import RunConfig
from nt_jax.errors import ConfigError
from nt_jax.options import COMMANDS, parser_of

PLACES = ("DIR", "PATH", "FILE", "DIR_OR_RUN", "BASE", "RUN_JSON", "A", "B")  # files and folders
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe; its name may be left out, as the file's is taken then."""
    schema = RunConfig.model_json_schema()
    required = [name for name in schema["required"] if name != "name"]
    return {"$schema": DRAFT, **schema, "title": "nt_jax recipe", "required": required}


def completion(shell: str) -> str:
    """The completion script of a shell. Raises a ConfigError where shtab is not installed."""
    try:
        import shtab
    except ImportError:
        raise ConfigError(
            "nt-jax completion needs the package shtab: pip install 'nt_jax[shell]'"
        ) from None
    return shtab.complete(_everything(shtab.FILE), shell)


def _everything(files: Any) -> argparse.ArgumentParser:
    """All commands as one parser, as shtab reads it."""
    whole = argparse.ArgumentParser("nt-jax")
    commands = whole.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, about in COMMANDS.items():
        parser = parser_of(name, f"nt-jax {name}")
        for action in parser._actions:
            if action.dest == "overrides":
                action.choices = [f"{key}=" for key in setting_table()]
            elif action.dest == "config":
                action.choices = recipe_names()
            elif action.metavar in PLACES:
                action.complete = files  # pyright: ignore[reportAttributeAccessIssue]
        commands.add_parser(name, parents=[parser], add_help=False, help=about)
    return whole
