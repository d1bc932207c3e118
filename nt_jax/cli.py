"""The command line: `nt-jax COMMAND ...`, which is the same as `python -m nt_jax.COMMAND ...`.

`schema` and `completion`, which print something and read nothing, have no such module.
Heavy libraries are imported only when a command really runs: --help and typos answer at once.
"""

import argparse
import contextlib
import difflib
import io
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nt_jax import exits
from nt_jax.config.load import load_config, recipe_names
from nt_jax.config.schema import RunConfig
from nt_jax.environment import prepare_environment, silence_libraries
from nt_jax.errors import ConfigError, NtError
from nt_jax.options import COMMANDS, parser_of
from nt_jax.signals import stopping, words_of
from nt_jax.version import __version__


def main(command: str | None = None, argv: Sequence[str] | None = None) -> int:
    """Exit code of one command, see nt_jax/exits.py.

    Without `command` the first word of `argv` names it, as in `nt-jax train`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    program = f"python -m nt_jax.{command}" if command else "nt-jax"
    try:
        with stopping():
            return _choose(words) if command is None else _run(command, words, program)
    except NtError as error:
        return _fail(error, error.exit_code)
    except Exception as error:
        from nt_jax import bug

        if (known := bug.foreseen(error)) is not None:
            return _fail(known, exits.MISTAKE)
        return _fail(bug.report(error, program, words), exits.BUG)
    except KeyboardInterrupt as error:
        again = f"{program} {shlex.join(words)}".strip()
        how, code = words_of(error)
        with contextlib.suppress(OSError):  # after a hang-up there may be no screen
            said = f"nt_jax: {how}. What is finished is kept; continue: {again}"
            print(said, file=sys.stderr, flush=True)
        return code


def _fail(said: object, code: int) -> int:
    """Print what is wrong, line by line."""
    for line in str(said).split("\n"):
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
        print(f"nt_jax: {shown}", file=sys.stderr)
    return code


def _choose(words: list[str]) -> int:
    """Run `nt-jax COMMAND ...`."""
    if words[:1] in (["-h"], ["--help"]):
        print("usage: nt-jax COMMAND ...      nt-jax COMMAND --help explains its settings\n")
        print("\n".join(f"  {name:<12} {about}" for name, about in COMMANDS.items()))
        return 0
    if words[:1] == ["--version"]:
        print(f"nt_jax {__version__}")
        return 0
    listed = f"choose one of {', '.join(COMMANDS)}"
    if not words:
        raise ConfigError(f"no command (command line): {listed}; see nt-jax --help")
    if words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else listed
        raise ConfigError(f"unknown command '{words[0]}' (command line): {hint}")
    return _run(words[0], words[1:], f"nt-jax {words[0]}")


def _run(command: str, words: list[str], program: str) -> int:
    """Parse the options of one command, then import what it needs and hand over."""
    options = parser_of(command, program).read(words)
    if command == "eval.lm_eval":
        return _lm_eval(**vars(options))
    if command in ("schema", "completion"):
        from nt_jax.completion import completion, json_schema

        schema = command == "schema"
        print(json.dumps(json_schema(), indent=2) if schema else completion(options.shell))
        return 0
    if command == "export" and (options.factors is None) != (options.model is None):
        raise ConfigError("--factors and --model BASE belong together (command line)")
    if command == "export" and options.push and len(options.format) > 1:
        raise ConfigError("--push takes one format, as a repository holds one (command line)")
    own = command in ("export", "factors", "reproduce")  # they read their config, or need none
    config = None if own else _config(command, options)
    _enter()
    from rich.console import Console

    from nt_jax.console import shown_on

    with shown_on(Console(markup=False)):
        if config is None:
            _without_config(command, options)
        elif options.dry_run:
            from nt_jax.run.dry_run import describe

            for line in describe(config):
                print(line, flush=True)
        else:
            _with_config(command, config, options)
    return 0


def _without_config(command: str, options: argparse.Namespace) -> None:
    """Export or compare factors; make a run again."""
    if command == "reproduce":
        from nt_jax.run.reproduce import reproduce

        reproduce(Path(options.run_json), options.run_dir)
        return
    if command == "factors":
        from nt_jax.run.factors import show_factors

        out = None if options.out is None else Path(options.out)
        show_factors(Path(options.first), Path(options.second), out)
        return
    from nt_jax.export.folder import Wanted

    wanted = Wanted(options.dtype, options.rank, options.strength, options.base)
    rest = (Path(options.out), options.format, wanted, options.push)
    if options.factors is None:
        from nt_jax.run.export import export_run

        export_run(Path(options.run), *rest)
    else:
        from nt_jax.run.export import export_factors

        export_factors(Path(options.factors), options.model, *rest)


def _with_config(command: str, config: RunConfig, options: argparse.Namespace) -> None:
    """Train, attribute, eval or compare."""
    if command == "compare":
        from nt_jax.compare.pipeline import compare

        facts = compare(config, options.verify)
        if options.json:
            print(json.dumps(facts))
    elif command == "eval" and (options.model or options.adapter or config.eval.url):
        from nt_jax.run.evaluate import evaluate_model

        source = options.model or config.model.source
        evaluate_model(config, source, options.beside_base, options.adapter, options.verify)
    else:
        from nt_jax.run.pipeline import run

        run(config, until="select" if command == "attribute" else None, verify=options.verify)


def _config(command: str, options: argparse.Namespace) -> RunConfig:
    """The config that options name; flags that stand for settings are overrides."""
    model = getattr(options, "model", None)
    if options.config is None and model is None:
        raise ConfigError(
            f"--config is missing (command line): give a recipe ({', '.join(recipe_names())}) "
            "or a YAML file"
        )
    settings = ("run_dir", "eval.engine", "compare.methods", "compare.tables")
    flags = {key: getattr(options, key.rpartition(".")[2], None) for key in settings}
    overrides = [f"{key}={_as_yaml(value)}" for key, value in flags.items() if value is not None]
    if options.config is None:  # a model measured alone, with the settings that all have
        options.overrides.insert(0, f"model.source={_as_yaml(str(model))}")
    config = load_config(options.config, [*options.overrides, *overrides])
    if config.eval.url and command != "eval":
        raise ConfigError(
            "eval.engine=openai measures a model that is served, so it is for "
            "python -m nt_jax.eval --model FOLDER only."
        )
    return config


def _as_yaml(text: str) -> str:
    """A word of the command line as YAML reads it back, whatever it holds."""
    return '"' + "".join(f"\\U{ord(letter):08x}" for letter in text) + '"'


def _lm_eval(tasks: str, **options) -> int:
    _enter()
    from nt_jax.eval.lm_eval.tasks import run_tasks

    print(run_tasks(tasks=tasks.split(","), **options))
    return 0


def _enter() -> None:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # attribution.score=MODULE:FUNCTION, as python -m has it
    for stream in (sys.stdout, sys.stderr):  # a screen that lacks a letter shows its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    prepare_environment(os.environ)
    silence_libraries()
