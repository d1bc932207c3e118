"""The command line: `nt-jax COMMAND ...`, which is the same as `python -m nt_jax.COMMAND ...`.

`schema`, `completion` have no such module. Heavy libraries are imported only where a command runs.
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

from nt_jax import cluster, completion, exits, peers, processes
from nt_jax.config.grid import cells_of, check_choice, read_axes
from nt_jax.config.load import load_config, recipe_names
from nt_jax.config.schema import RunConfig
from nt_jax.config.yaml_lines import as_yaml
from nt_jax.ending import ended
from nt_jax.environment import prepare_environment, silence_libraries
from nt_jax.errors import ConfigError
from nt_jax.options import COMMANDS, parser_of
from nt_jax.version import __version__


def main(command: str | None = None, argv: Sequence[str] | None = None) -> int:
    """Exit code of a command (nt_jax/exits.py), named by `argv[0]` if not by `command`."""
    words = list(sys.argv[1:] if argv is None else argv)
    program = f"python -m nt_jax.{command}" if command else "nt-jax"

    def work() -> int:
        return _choose(words) if command is None else _run(command, words, program)

    return ended(work, f"{program} {shlex.join(words)}".strip())


def _choose(words: list[str]) -> int:
    """Run `nt-jax COMMAND ...`."""
    if words[:1] in (["-h"], ["--help"]):
        usage = "usage: nt-jax COMMAND ...      nt-jax COMMAND --help explains its settings\n"
        print(usage, *(f"  {name:<12} {about}" for name, about in COMMANDS.items()), sep="\n")
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
    if command in ALONE:
        return ALONE[command](options)
    if command == "export" and (options.factors is None) != (options.model is None):
        raise ConfigError("--factors and --model BASE belong together (command line)")
    if command == "export" and options.revision and options.model is None:
        raise ConfigError("--revision is that of --model BASE; a run has its own (command line)")
    if command == "export" and options.push and len(options.format) > 1:
        raise ConfigError("--push takes one format, as a repository holds one (command line)")
    config = None if command in WITHOUT else _config(command, options)
    place = None if getattr(options, "dry_run", False) else cluster.place_of(options, os.environ)
    if place is not None:
        _check_shared(options, config)
        if (code := peers.parent()) is not None:
            return code
    _enter()
    if place is not None:
        cluster.begin(place)
    with _screen():
        if config is None:
            _without_config(command, options)
        else:
            _with_config(command, config, options)
    return 0


def _without_config(command: str, options: argparse.Namespace) -> None:
    """Export or compare factors; make a run, or its report, again."""
    if command == "report":
        from nt_jax.run.report import report_again

        report_again(Path(options.run))
    elif command == "reproduce":
        from nt_jax.run.reproduce import reproduce

        reproduce(Path(options.run_json), options.run_dir)
    elif command == "factors":
        from nt_jax.run.factors import show_factors

        show_factors(Path(options.first), Path(options.second), options.out and Path(options.out))
    else:
        _export(options)


def _export(options: argparse.Namespace) -> None:
    from nt_jax.export.folder import Wanted

    wanted = Wanted(options.dtype, options.rank, options.strength, options.base)
    rest = (Path(options.out), options.format, wanted, options.push)
    if options.factors is None:
        from nt_jax.run.export import export_run

        export_run(Path(options.run), *rest)
    else:
        from nt_jax.run.export import export_factors

        export_factors(Path(options.factors), options.model, *rest, options.revision)


def _with_config(command: str, config: RunConfig, options: argparse.Namespace) -> None:
    """Train, attribute, eval or compare, or say what that would be."""
    measured = command == "eval" and (options.model or options.adapter or config.eval.url)
    if options.dry_run and not measured:
        from nt_jax.run.dry_run import describe

        if command == "compare":
            from nt_jax.compare.pipeline import check_settings

            check_settings(config)
        for line in describe(config):
            print(line, flush=True)
    elif command == "compare":
        from nt_jax.compare.pipeline import compare

        facts = compare(config, options.verify, options.ray)
        if options.json:
            print(json.dumps(facts))
    elif measured:
        from nt_jax.run.evaluate import evaluate_model

        rest = options.beside_base, options.adapter, options.verify, options.dry_run
        evaluate_model(config, options.model or config.model.source, *rest)
    else:
        from nt_jax.run.pipeline import run

        run(config, until="select" if command == "attribute" else None, verify=options.verify)


def _sweep(options: argparse.Namespace) -> int:
    """The dial, whose cells are configs of their own."""
    if options.ray and options.warm_start:
        raise ConfigError(
            "--warm-start begins each cell at another one's factors, so they cannot be tuned side "
            "by side: leave it or --ray out (command line)"
        )
    check_choice(options.pick)
    axes, options.overrides = read_axes(options.overrides)
    if options.config is None:
        _config("sweep", options)  # says what is missing
    words = [*options.overrides, *_flags(options)]
    cells = cells_of(options.config, axes, words)
    for cell in cells:
        _check_not_served("sweep", cell.config)
    if options.dry_run:
        for cell in cells:
            print(" ".join(f"{key}={value}" for key, value in cell.settings.items()))
        print(f"{len(cells)} cells. dry run: nothing was written")
        return 0
    _enter()
    from nt_jax.sweep.menu import menu
    from nt_jax.sweep.sweep import sweep

    asks = sys.stdin.isatty() and sys.stdout.isatty() and not (options.no_menu or options.json)
    with _screen(options.json):
        facts = sweep(cells, options.pick, menu if asks else None, options.warm_start, options.ray)
    if options.json:
        print(json.dumps(facts))
    return 0


def _flags(options: argparse.Namespace) -> list[str]:
    """The flags that stand for settings, as settings."""
    settings = ("run_dir", "eval.engine", "compare.methods", "compare.tables")
    flags = {key: getattr(options, key.rpartition(".")[2], None) for key in settings}
    return [f"{key}={as_yaml(value)}" for key, value in flags.items() if value is not None]


def _config(command: str, options: argparse.Namespace) -> RunConfig:
    """The config that options name; flags that stand for settings are overrides."""
    model = getattr(options, "model", None)
    if options.config is None and model is None:
        raise ConfigError(
            f"--config is missing (command line): give a recipe ({', '.join(recipe_names())}) "
            "or a YAML file"
        )
    if options.config is None:  # a model measured alone, with the settings that all have
        options.overrides.insert(0, f"model.source={as_yaml(str(model))}")
    config = load_config(options.config, [*options.overrides, *_flags(options)])
    _check_not_served(command, config)
    alone = command == "eval" and (model is not None or getattr(options, "adapter", None))
    if config.eval.harness and not alone:
        raise ConfigError(
            "eval.harness asks finished models, so it is for python -m nt_jax.eval --model RUN "
            "(or a model, with --beside-base) only."
        )
    if getattr(options, "beside_base", False) and not (alone or config.eval.url):
        raise ConfigError("--beside-base is beside a model: name that with --model or --adapter.")
    return config


def _check_shared(options: argparse.Namespace, config: RunConfig | None) -> None:
    """Raises a ConfigError for what several processes cannot do as one run."""
    alone = "--factors" if getattr(options, "factors", None) else ""
    if config is not None and config.eval.url:
        alone = "eval.engine=openai"
    elif config is not None and config.eval.harness:
        alone = "eval.harness"
    if alone:
        raise ConfigError(f"{alone} is for one process (docs/scaling.md). Start one alone.")


def _check_not_served(command: str, config: RunConfig) -> None:
    if config.eval.url and command != "eval":
        raise ConfigError(
            "eval.engine=openai measures a model that is served, so it is for "
            "python -m nt_jax.eval --model FOLDER only."
        )


def _lm_eval(options: argparse.Namespace) -> int:
    _enter()
    from nt_jax.eval.lm_eval.tasks import run_tasks

    print(run_tasks(**vars(options) | {"tasks": options.tasks.split(",")}))
    return 0


def _schema(options: argparse.Namespace) -> int:
    print(json.dumps(completion.json_schema(), indent=2))
    return 0


def _completion(options: argparse.Namespace) -> int:
    print(completion.completion(options.shell))
    return 0


def _chat(options: argparse.Namespace) -> int:
    if options.json and options.prompt is None:
        raise ConfigError("--json belongs to --prompt (command line): a conversation is no JSON")
    _enter()
    from nt_jax.chat.screen import ask_once, chat, check_prompt, printed, shown_once

    rest = (options.strength, options.system, options.max_new)
    with _screen(options.json):
        if options.prompt is None:
            chat(Path(options.run), *rest)
            return 0
        check_prompt(options.prompt)
        found = ask_once(Path(options.run), options.prompt, *rest)
        if options.json:
            print(printed(found))
        else:
            shown_once(found)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    _enter()
    from nt_jax.doctor.look import doctor

    with _screen(options.json):
        meant = (options.mesh, options.memory, options.logits, options.devices)
        found = doctor(options.model, *meant, options.overrides, options.prompt_tokens)
    if options.json:
        print(json.dumps(found))
    return exits.DONE if found.get("fits", True) else exits.UNFINISHED


def _screen(json_asked: bool = False) -> contextlib.AbstractContextManager[None]:
    """Where a command says how far it is: beside its JSON, where that is what it prints."""
    from nt_jax.console import Screen, shown_on

    return shown_on(Screen(stderr=json_asked, markup=False, quiet=not processes.first()))


def _enter() -> None:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # attribution.score=MODULE:FUNCTION, as python -m has it
    for stream in (sys.stdout, sys.stderr):  # a screen that lacks a letter shows its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    prepare_environment(os.environ)
    silence_libraries()


WITHOUT = ("export", "factors", "report", "reproduce")
# Commands that take no config, or make their own.
ALONE = {"chat": _chat, "completion": _completion, "doctor": _doctor, "schema": _schema}
ALONE |= {"eval.lm_eval": _lm_eval, "sweep": _sweep}
