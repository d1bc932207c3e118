"""The options of every command, with argparse; their mistakes are ConfigErrors like all others."""

import argparse
import difflib
from typing import NoReturn

from nt_jax import option_values as values
from nt_jax.cluster import address
from nt_jax.config.help import setting_table, settings_help
from nt_jax.config.load import recipe_names
from nt_jax.config.registry import FORMATS, METHODS, TABLES
from nt_jax.errors import ConfigError
from nt_jax.version import __version__

COMMANDS = {
    "train": "attribute, select, tune, export, evaluate and report; finished stages are skipped",
    "attribute": "score the neurons, select the safety and utility neurons, then stop",
    "eval": "carry a run on to its before / after table and report, or measure any model alone",
    "sweep": "the dial: tune a grid of settings on one attribution, and choose from it",
    "compare": "fit and measure other methods and ablations on the run's data; the paper's tables",
    "chat": "talk to a run's model, untuned and tuned side by side",
    "doctor": "what this machine can do with a model: sizes, memory, a prompt, time",
    "export": "turn the tuned factors of a run into a checkpoint, an adapter or a GGUF file",
    "factors": "compare the factors of two runs, and multiply them",
    "eval.lm_eval": "tasks of lm-evaluation-harness on a run or a model (extra lm-eval)",
    "report": "write the report of a finished run anew, from what it has measured",
    "reproduce": "make a finished run again from its run.json, and compare the results",
    "schema": "print the JSON schema of recipes, for editors",
    "completion": "print the completion script of a shell (extra shell)",
}
TOGETHER = ("train", "attribute", "eval", "export")  # what several processes can do as one run


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ConfigErrors, like every other mistake of the user."""

    def __init__(self, command: str, program: str, **settings) -> None:
        about = f"{COMMANDS[command].capitalize()}."
        super().__init__(prog=program, description=about, allow_abbrev=False, **settings)
        self.add_argument("--version", action="version", version=f"nt_jax {__version__}")

    def error(self, message: str) -> NoReturn:
        """What argparse calls where it would exit."""
        raise ConfigError(f"{message} (command line); see {self.prog} --help")

    def read(self, words: list[str]) -> argparse.Namespace:
        """The options in `words`; settings may stand before, between and after the flags."""
        options, unknown = self.parse_known_intermixed_args(words)
        if not unknown:
            return options
        word = unknown[0]
        name = word.lstrip("-").partition("=")[0]
        flags = [flag for action in self._actions for flag in action.option_strings]
        settable = any(action.dest == "overrides" for action in self._actions)
        if settable and (key := _setting(name)):
            value = word.partition("=")[2] or _next(words, word)
            hint = f": settings have no dashes: {key}={value}"
        elif close := difflib.get_close_matches(word.partition("=")[0], flags, n=1):
            hint = f": did you mean '{close[0]}'?"
        else:
            hint = f"; see {self.prog} --help"
        raise ConfigError(f"unknown option '{word}' (command line){hint}")


def _setting(name: str) -> str | None:
    """The setting that a flag of this name must mean: its key, or the end of no other's."""
    if name == "model":
        return "model.source"
    known = setting_table()
    ends = [key for key in known if key.rpartition(".")[2] == name.replace("-", "_")]
    return name if name in known else ends[0] if len(ends) == 1 else None


def _next(words: list[str], word: str) -> str:
    """The value that stands behind a flag, or VALUE."""
    behind = words[words.index(word) + 1 :] if word in words else []
    return behind[0] if behind and not behind[0].startswith("-") else "VALUE"


def parser_of(command: str, program: str) -> Parser:
    """The parser of a command."""
    makers = {
        "chat": chat_parser, "doctor": doctor_parser, "export": export_parser,
        "factors": factors_parser, "eval.lm_eval": lm_eval_parser,
        "report": report_parser, "reproduce": reproduce_parser, "schema": Parser,
        "completion": completion_parser,
    }  # fmt: skip
    return makers.get(command, config_parser)(command, program)


def config_parser(command: str, program: str) -> Parser:
    """The options of the commands that take a config: train, attribute, eval and compare."""
    style = argparse.RawDescriptionHelpFormatter
    parser = Parser(command, program, epilog=settings_help(), formatter_class=style)
    add = parser.add_argument
    add("--config", metavar="NAME_OR_PATH", help=f"{', '.join(recipe_names())}, or a YAML file")
    add("--run-dir", metavar="DIR", help="same as run_dir=DIR")
    add("--dry-run", action="store_true", help="show config, sizes and memory, then stop")
    whole = "read every file of the finished stages and compare its sha256, large ones too"
    if command != "sweep":
        add("--verify", action="store_true", help=whole)
    several = "; of neurons and tune also several values: key=A,B" if command == "sweep" else ""
    add("overrides", nargs="*", metavar="section.key=value", help=f"settings, see below{several}")
    if command == "eval":
        alone = (
            "tune nothing: measure this Hugging Face folder, GGUF file, hub id, or a run "
            "directory (its base and its tuned model), on the config's test sets"
        )
        both = "also measure the config's own model (with --adapter: the bare one), and compare"
        add("--model", metavar="DIR_OR_RUN", help=alone)
        put_on = "a PEFT adapter (LoRA, IA3) or factors to put onto --model, or the config's model"
        add("--adapter", metavar="DIR", help=put_on)
        add("--beside-base", action="store_true", help=both)
        add("--engine", help="who decodes: same as eval.engine=ENGINE")
    if command in TOGETHER:
        _add_places(parser)
    if command == "sweep":
        how = "then ask the test sets of this one: security, balanced, utility or a number"
        add("--pick", metavar="CHOICE", help=how)
        warm = "begin each cell at its neighbour's factors, for half the epochs: not train's bytes"
        add("--warm-start", action="store_true", help=warm)
        add("--no-menu", action="store_true", help="ask nothing at the end, in a terminal neither")
    if command in ("sweep", "compare"):
        found = "print what was found as one JSON object at the end"
        add("--json", action="store_true", help=found)
        tasks = "cells or methods side by side, as tasks of the Ray cluster there (extra ray)"
        add("--ray", type=address, metavar="HOST:PORT", help=tasks)
    if command == "compare":
        listed = "; ".join(f"{number} {about}" for number, about in TABLES.items())
        add("--methods", metavar="A,B", help=f"compare.methods=[A, B], of {', '.join(METHODS)}")
        add("--tables", metavar="1,2", help=f"compare.tables=[1, 2], or all. {listed}")
    return parser


def export_parser(command: str, program: str) -> Parser:
    """The options of export, which reads its config from the run directory."""
    parser = Parser(command, program)
    add = parser.add_argument
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--run", metavar="DIR", help="a run directory, runs/NAME")
    alone = "in place of a run: factors that were exported, their product, or an (IA)^3 adapter"
    origin.add_argument("--factors", metavar="PATH", help=alone)
    add("--model", metavar="BASE", help="with --factors: the model that they belong to")
    version = "with --model: branch, tag or commit of a hub id (default: the newest)"
    add("--revision", metavar="REV", help=version)
    add("--out", required=True, metavar="DIR", help="where to write")
    named = "; ".join(f"{name} = {line.about}" for name, line in FORMATS.items())
    several = f"{named}. One goes into DIR, several (A,B) into DIR/FORMAT (default: hf)"
    add("--format", type=values.formats, default=("hf",), metavar="A,B", help=several)
    rounding = "source = as the checkpoint was (default); float32 = no rounding, larger"
    add("--dtype", choices=("source", "float32"), default="source", help=rounding)
    how_far = (
        "how far to go from the untuned model (0) to the learned factors (1), in place of "
        "what validation kept; train/strengths.jsonl says how each one did (docs/dial.md)"
    )
    add("--strength", type=values.from_zero, metavar="S", help=how_far)
    called = "what the base is called in cards and adapters, e.g. its hub id (default: as known)"
    add("--base", metavar="NAME", help=called)
    upload = "then upload the folder to this repository on the hub (made private where new)"
    add("--push", metavar="OWNER/NAME", help=upload)
    add(
        "--rank",
        type=values.count,
        metavar="N",
        help="of (gguf-)lora: no more than N; the error is said",
    )
    _add_places(parser)
    return parser


def _add_places(parser: Parser) -> None:
    """Which process of a run this one is, where no launcher says so (docs/scaling.md)."""
    add = parser.add_argument
    where = "one run by several processes (docs/scaling.md): address and free port of process 0"
    add("--coordinator", metavar="HOST:PORT", help=where)
    add("--processes", type=values.count, metavar="N", help="with it: how many there are")
    add("--process", type=values.place, metavar="I", help="with it: which one this is, from 0")


def chat_parser(command: str, program: str) -> Parser:
    """The options of chat, which reads its config from the run directory."""
    parser = Parser(command, program)
    add = parser.add_argument
    add("--run", required=True, metavar="DIR", help="a run directory, runs/NAME")
    how_far = "how far to go from the untuned model (0) to the learned factors (1)"
    add("--strength", type=values.from_zero, metavar="S", help=f"{how_far}; default: as kept")
    add("--system", metavar="TEXT", help="a system message before the conversation")
    add(
        "--max-new", type=values.count, metavar="N", help="tokens of an answer (default: the run's)"
    )
    add("--prompt", metavar="TEXT", help="ask this alone, then stop")
    add("--json", action="store_true", help="with --prompt: print answers and verdicts as JSON")
    return parser


def doctor_parser(command: str, program: str) -> Parser:
    """The options of doctor."""
    parser = Parser(command, program)
    add = parser.add_argument
    what = "a recipe, a directory, .gguf file or hub id, or a shape that doctor lists without one"
    add("model", nargs="?", metavar="MODEL", help=what)
    add("overrides", nargs="*", metavar="section.key=value", help="settings of its recipe")
    add(
        "--mesh", type=values.mesh, metavar="DATAxMODEL[xFSDP]", help="mesh.data x mesh.model (1x1)"
    )
    meant = parser.add_mutually_exclusive_group()
    card = "memory of one device in GB, where the devices meant are not here"
    meant.add_argument("--memory", type=values.above_zero, metavar="GB", help=card)
    kind = "devices that need not be here, by number and kind: the best mesh of them and its time"
    meant.add_argument("--devices", metavar="8xH100", help=kind)
    add("--prompt-tokens", type=values.count, metavar="N", help="of a prompt, for memory (256)")
    given = "an .npz file of arrays tokens [T] and logits [T, V], to compare ours with"
    add("--logits", metavar="FILE", help=given)
    add("--json", action="store_true", help="print what was found as one JSON object")
    return parser


def factors_parser(command: str, program: str) -> Parser:
    """Two sets of factors."""
    parser = Parser(command, program)
    either = "a run directory, or a file or folder of factors"
    parser.add_argument("first", metavar="A", help=either)
    parser.add_argument("second", metavar="B", help=either)
    parser.add_argument("--out", metavar="DIR", help="write the product of both there")
    return parser


def report_parser(command: str, program: str) -> Parser:
    """A run directory."""
    parser = Parser(command, program)
    where = "the directory of a finished run, or of an evaluation"
    parser.add_argument("--run", required=True, metavar="DIR", help=where)
    return parser


def reproduce_parser(command: str, program: str) -> Parser:
    """A run.json, and where the new run goes."""
    parser = Parser(command, program)
    parser.add_argument("run_json", metavar="RUN_JSON", help="run.json of a finished run")
    where = "folder of the new run (default: that of the old one with -again after it)"
    parser.add_argument("--run-dir", metavar="DIR", help=where)
    return parser


def completion_parser(command: str, program: str) -> Parser:
    """A shell."""
    parser = Parser(command, program)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return parser


def lm_eval_parser(command: str, program: str) -> Parser:
    """The options of the harness's tasks."""
    parser = Parser(command, program)
    add = parser.add_argument
    add("--model", required=True, help="run directory, HF folder, GGUF or hub id")
    add("--tasks", required=True, help="names, separated by commas")
    add("--task-folder", metavar="DIR", help="with task files of your own")
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add(
        "--batch-size",
        type=values.count,
        metavar="N",
        default=32,
        help="rows at a time (default: 32)",
    )
    add("--shots", type=values.place, metavar="N", help="examples before each question")
    add("--limit", type=values.count, metavar="N", help="documents per task")
    add("--chat", action="store_true", help="ask through the chat template")
    add("--system-prompt", metavar="TEXT", help="with --chat: a system message before every chat")
    add("--thinking", action="store_true", help="with --chat: let the model reason (Qwen3)")
    add("--json", metavar="FILE", dest="json_file", help="write the scores there as well")
    return parser
