"""The conversation at a terminal, and one question with its answer as JSON."""

import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from nt_jax.chat.sides import Sides, Talk, open_sides
from nt_jax.console import live, say, show
from nt_jax.errors import ConfigError, NtError
from nt_jax.eval.judges.grounds import arguable
from nt_jax.eval.metrics.result import BASE, TUNED
from nt_jax.signals import Stopped

TITLES = {BASE: "untuned", TUNED: "tuned"}
HELP = "/system TEXT (none: without), /strength S (none: as kept), /reset, /quit"


def ask_once(
    run_dir: Path,
    prompt: str,
    strength: float | None = None,
    system: str | None = None,
    max_new: int | None = None,
) -> dict[str, Any]:
    """One question to both sides: their answers, verdicts and reasons, as plain JSON."""
    check_prompt(prompt)
    check_system(system)
    sides = open_sides(run_dir, strength, system, max_new)
    answers: dict[str, list[int]] = {}
    for now in sides.answers(Talk.new().prompts(prompt)):
        answers = now
    texts = {name: sides.model.text(ids) for name, ids in answers.items()}
    told = {name: sides.verdict(prompt, ids) for name, ids in answers.items()}
    return {
        "run": str(run_dir), "prompt": prompt, "system": sides.model.chat.system,
        "strength": strength, "judge": sides.judge.name,
        "answers": [
            {"model": name, "answer": texts[name], "tokens": len(answers[name])}
            | told[name]
            for name in answers
        ],
    }  # fmt: skip


def check_prompt(prompt: str) -> None:
    """Raises a ConfigError where nothing is asked, or no text."""
    if not prompt.strip():
        raise ConfigError("--prompt is empty (command line): nothing to answer")
    _check_text("--prompt", prompt)


def check_system(system: str | None) -> None:
    """Raises a ConfigError for a system message that is no text."""
    _check_text("--system", system or "")


def _check_text(option: str, text: str) -> None:
    if any("\ud800" <= char <= "\udfff" for char in text):  # how Python keeps bytes of no UTF-8
        raise ConfigError(f"{option} is no UTF-8 text (command line): write it in UTF-8")


def shown_once(found: Mapping[str, Any]) -> None:
    """What `ask_once` found, on the screen."""
    texts = {row["model"]: row["answer"] for row in found["answers"]}
    show(beside(texts, {row["model"]: words(row, row["answer"]) for row in found["answers"]}))


def chat(
    run_dir: Path,
    strength: float | None = None,
    system: str | None = None,
    max_new: int | None = None,
) -> None:
    """Ask until the input ends or says /quit; both sides remember what was said."""
    check_system(system)
    sides, talk = open_sides(run_dir, strength, system, max_new), Talk.new()
    say("chat", f"{run_dir}   untuned and tuned side by side, judge {sides.judge.name}")
    say("", HELP)
    for line in lines():
        if line == "/quit":
            return
        try:
            if line == "/reset":
                talk = Talk.new()
            elif line.startswith("/"):
                other = changed(line, strength, system)
                sides = open_sides(run_dir, *other, max_new, sides.model)
                talk = Talk.new()
                strength, system = other
                say("", "a new conversation")
            else:
                turn(sides, talk, line)
        except NtError as error:
            again = "" if isinstance(error, ConfigError) else " /reset begins a new conversation."
            say("error", f"{error}{again}")
        except Stopped:  # by kill or a closed terminal: the end of all
            raise
        except KeyboardInterrupt:
            say("", "stopped; this turn is forgotten")


def turn(sides: Sides, talk: Talk, text: str) -> None:
    """Ask both sides, show their answers as they come, and why they count as what they do."""
    texts: dict[str, str] = {}
    answers: dict[str, list[int]] = {}
    with live() as update:
        for answers in sides.answers(talk.prompts(text)):
            texts = {name: sides.model.text(ids) for name, ids in answers.items()}
            update(beside(texts, {}))
        told = {name: words(sides.verdict(text, ids), texts[name]) for name, ids in answers.items()}
        update(beside(texts, told))
    talk.keep(text, texts)


def beside(texts: Mapping[str, str], verdicts: Mapping[str, str]) -> Table:
    """Answers in two columns, verdicts below them."""
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 3, 0, 0))
    for name in texts:
        table.add_column(TITLES[name], ratio=1, overflow="fold")
    table.add_row(*(Text(text) for text in texts.values()))
    if verdicts:
        table.add_row()
        table.add_row(*(Text(verdicts[name], style="italic") for name in texts))
    return table


def words(verdict: Mapping[str, Any], answer: str) -> str:
    """A verdict and its reason, with the words that decided it."""
    kind = verdict.get("class") or {1.0: "refusal", 0.0: "no refusal"}.get(
        verdict["refused"], "cannot tell"
    )
    if not verdict.get("reason"):
        return f"judged: {kind}"
    start, end = verdict["span"]
    doubt = ", arguable" if arguable(kind, verdict["reason"]) else ""
    return f"judged: {kind}{doubt} ({verdict['reason']}: {' '.join(answer[start:end].split())!r})"


def changed(
    line: str, strength: float | None, system: str | None
) -> tuple[float | None, str | None]:
    """(strength, system prompt, "" for none) after a command; a ConfigError where it is none."""
    command, _, value = line.partition(" ")
    value = value.strip()
    if command == "/system":
        return strength, value
    if command == "/strength":
        try:
            number = float(value) if value else None
        except ValueError:
            number = -1.0
        if number is not None and not 0 <= number < float("inf"):
            raise ConfigError(f"'{value}' is no strength: give 0 or a number above it.")
        return number, system
    raise ConfigError(f"'{command}' is no command. {HELP}.")


def lines() -> Iterator[str]:
    """What the user says, line by line, until the input ends."""
    asks = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text are shown as such
    while True:
        try:
            line = input("\nyou> " if asks else "").strip()
        except EOFError:
            return
        if line:
            if not asks:
                show(f"you> {line}")
            yield line


def printed(found: Mapping[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(found, ensure_ascii=False)
