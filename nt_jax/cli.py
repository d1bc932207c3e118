"""The command line: `nt-jax COMMAND ...`, which is the same as `python -m nt_jax.COMMAND ...`.

Heavy libraries are imported only when a command really runs: --help and typos answer at once.
"""

import argparse
import difflib
import json
import logging
import math
import os
import shlex
import sys
import warnings
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import NoReturn

from nt_jax import __version__
from nt_jax.compare.names import METHODS, TABLES, chosen_methods, chosen_tables
from nt_jax.config.help import setting_table, settings_help
from nt_jax.config.load import load_config, recipe_names
from nt_jax.errors import ConfigError, NtError

COMMANDS = {
    "train": "attribute, select, tune, export, evaluate and report; finished stages are skipped",
    "attribute": "score the neurons, select the safety and utility neurons, then stop",
    "eval": "carry a run on to its before / after table and report, or measure any model alone",
    "compare": "fit and measure rival methods and ablations on the run's data; the paper's tables",
    "export": "turn the tuned factors of a run into a Hugging Face checkpoint",
}
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def main(command: str | None = None, argv: Sequence[str] | None = None) -> int:
    """Exit code of one command: 0 done, 2 an error the user can act on, 130 interrupted.

    Without `command` the first word of `argv` names it, as in `nt-jax train`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    program = f"python -m nt_jax.{command}" if command else "nt-jax"
    try:
        if command is not None:
            return _run(command, words, program)
        return _choose(words)
    except NtError as error:
        for line in str(error).splitlines():
            print(f"nt_jax: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = f"{program} {shlex.join(words)}".strip()
        print(f"nt_jax: interrupted. What is finished is kept; continue: {again}", file=sys.stderr)
        return 130


def prepare_environment(environ: MutableMapping[str, str], vllm: bool = False) -> None:
    """Set what jax and the Hugging Face libraries read at import, unless the user has set it.

    Where vLLM will share the device, jax must not take most of its memory at the start.
    """
    if vllm:
        environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    for name, value in QUIET.items():
        environ.setdefault(name, value)
    caches = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(caches) / "nt_jax" / "xla"))


def silence_libraries() -> None:
    """Keep other people's warnings off the screen; their errors and all of ours still show."""
    if not sys.warnoptions:  # `python -W ...` and PYTHONWARNINGS are the user's own choice
        warnings.simplefilter("ignore")
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: record.levelno >= logging.ERROR or _is_ours(record.name))
    logging.basicConfig(handlers=[handler], format="nt_jax: %(message)s")


def _is_ours(logger: str) -> bool:
    return logger.partition(".")[0] == "nt_jax"


def _choose(words: list[str]) -> int:
    """Run `nt-jax COMMAND ...`."""
    if words[:1] in (["-h"], ["--help"]):
        print("usage: nt-jax COMMAND ...      nt-jax COMMAND --help explains its settings\n")
        print("\n".join(f"  {name:<10} {about}" for name, about in COMMANDS.items()))
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
    options = _parse(
        _export_parser(program) if command == "export" else _parser(command, program), words
    )
    if command == "export":
        _enter()
        from nt_jax.run.pipeline import export_run

        export_run(Path(options.run), Path(options.out), options.dtype, options.strength)
        return 0
    if options.config is None:
        raise ConfigError(
            f"--config is missing (command line): give a recipe ({', '.join(recipe_names())}) "
            "or a YAML file"
        )
    overrides = list(options.overrides)
    if options.run_dir is not None:
        overrides.append(f"run_dir={json.dumps(options.run_dir)}")  # JSON text is YAML text too
    if command == "eval" and options.engine is not None:
        overrides.append(f"eval.engine={options.engine}")
    config = load_config(options.config, overrides)
    wanted = None
    if command == "compare":
        wanted = chosen_methods(options.methods), chosen_tables(options.tables)
    _enter(vllm=config.eval.engine == "vllm")
    if options.dry_run:
        from nt_jax.run.dry_run import describe

        print(describe(config))
        return 0
    from rich.console import Console

    if wanted is not None:
        from nt_jax.compare.pipeline import compare

        facts = compare(config, Console(), *wanted)
        if options.json:
            print(json.dumps(facts))
        return 0
    if command == "eval" and options.model is not None:
        from nt_jax.run.evaluate import evaluate

        evaluate(config, options.model, Console(), options.beside_base)
        return 0
    from nt_jax.run.pipeline import run

    if command == "attribute":
        run(config, Console(), until="select")
    else:
        run(config, Console())
    return 0


def _enter(vllm: bool = False) -> None:
    prepare_environment(os.environ, vllm)
    silence_libraries()


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors, like every other mistake of the user."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (command line); see {self.prog} --help")


def _parser(command: str, program: str) -> _Parser:
    """The options of train, attribute, eval and compare."""
    parser = _Parser(
        prog=program,
        description=COMMANDS[command].capitalize() + ".",
        epilog=settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="NAME_OR_PATH", help=f"{', '.join(recipe_names())}, or a YAML file"
    )
    parser.add_argument("--run-dir", metavar="DIR", help="same as run_dir=DIR")
    if command == "eval":
        parser.add_argument(
            "--model",
            metavar="DIR_OR_RUN",
            help="tune nothing: measure this Hugging Face folder, GGUF file, hub id, or a run "
            "directory (its base and its tuned model), on the config's test sets",
        )
        parser.add_argument(
            "--beside-base",
            action="store_true",
            help="with --model: also measure the config's own model, and compare",
        )
        parser.add_argument(
            "--engine",
            choices=("jax", "vllm"),
            help="who decodes: same as eval.engine=ENGINE; docs/generation.md",
        )
    if command == "compare":
        parser.add_argument(
            "--methods", metavar="A,B", help=f"of {', '.join(METHODS)}; without it, all of them"
        )
        listed = "; ".join(f"{number} {about}" for number, about in TABLES.items())
        parser.add_argument(
            "--tables",
            metavar="1,2",
            help=f"the paper's tables to write, or all; without it, 2. {listed}",
        )
        parser.add_argument(
            "--json", action="store_true", help="print all numbers as one JSON object at the end"
        )
    parser.add_argument(
        "--dry-run", action="store_true", help="show the whole config, sizes and memory, then stop"
    )
    parser.add_argument("--version", action="version", version=f"nt_jax {__version__}")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings, see below"
    )
    return parser


def _export_parser(program: str) -> _Parser:
    """The options of export, which reads its config from the run directory."""
    parser = _Parser(
        prog=program, description=COMMANDS["export"].capitalize() + ".", allow_abbrev=False
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="a run directory, runs/NAME")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write")
    parser.add_argument(
        "--dtype",
        choices=("source", "float32"),
        default="source",
        help="source = as the checkpoint was (default); float32 = no rounding, larger",
    )
    parser.add_argument(
        "--strength",
        type=_above_zero,
        metavar="S",
        help="how far to go from the untuned model (0) to the learned factors (1), in place of "
        "what validation kept; train/strengths.jsonl says how each one did that was tried",
    )
    parser.add_argument("--version", action="version", version=f"nt_jax {__version__}")
    return parser


def _above_zero(word: str) -> float:
    """A finite number above 0."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {word!r}")
    return value


def _parse(parser: _Parser, words: list[str]) -> argparse.Namespace:
    """The options in `words`; settings may stand before, between and after the flags."""
    options, unknown = parser.parse_known_intermixed_args(words)
    if not unknown:
        return options
    word = unknown[0]
    name = word.lstrip("-").partition("=")[0]
    flags = [flag for action in parser._actions for flag in action.option_strings]
    if name in setting_table():
        hint = f": settings have no dashes: {name}=VALUE"
    elif close := difflib.get_close_matches(word.partition("=")[0], flags, n=1):
        hint = f": did you mean '{close[0]}'?"
    else:
        hint = f"; see {parser.prog} --help"
    raise ConfigError(f"unknown option '{word}' (command line){hint}")
