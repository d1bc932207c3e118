"""What a person at a terminal does with a finished dial: look, chat, export, ask the test sets."""

import shlex
from pathlib import Path

from nt_jax.console import say, show
from nt_jax.errors import NtError
from nt_jax.export.folder import Wanted
from nt_jax.run.export import export_run
from nt_jax.sweep.points import KINDS, Point
from nt_jax.sweep.sweep import Dial

HELP = (
    "N is a number of the table, or security, balanced, utility",
    "look N          its numbers with intervals, and where it lies",
    "chat N          talk to it beside the untuned model",
    "test N          ask the test sets, export and report",
    "export N DIR    write its Hugging Face checkpoint",
    "quit",
)


def menu(dial: Dial) -> None:
    """Ask until the answer is quit or the input ends; a mistake is one line."""
    show()
    for line in HELP:
        say("", line)
    while True:
        try:
            words = shlex.split(input("dial> "))
        except EOFError:
            return
        except ValueError as error:
            say("error", f"{error}; close the quotes")
            continue
        if words[:1] in (["quit"], ["q"], ["exit"]):
            return
        try:
            if words:
                answer(dial, words)
        except NtError as error:
            say("error", str(error))


def answer(dial: Dial, words: list[str]) -> None:
    """Do what one line of the menu says."""
    command, wanted = words[0], words[1:]
    if len(wanted) != {"look": 1, "chat": 1, "test": 1, "export": 2}.get(command):
        for line in HELP:
            say("", line)
        return
    point = dial.chosen(wanted[0])
    folder = dial.cells[point.cell].folder
    strength = None if point.kept else point.strength
    if command == "look":
        look(point, folder)
    elif command == "test":
        dial.measure(point)
    elif command == "export":
        export_run(folder, Path(wanted[1]), wanted=Wanted(strength=strength))
    else:
        from nt_jax.chat.screen import chat

        chat(folder, strength)


def look(point: Point, folder: Path) -> None:
    """A point's numbers."""
    say(str(point.number), point.where)
    for kind in KINDS:
        if (rate := point.rate(kind)) is not None:
            value, low, high = (100 * part for part in rate)
            said = f"{value:.0f} % refused, {low:.0f}..{high:.0f} of {point.asked[kind]}"
            say("", f"{kind.replace('_', ' '):<20} {said}")
    entropy, ratio = point.rates["entropy_harmless"], point.rates["perplexity_ratio"]
    say("", f"{'entropy, harmless':<20} {entropy:.2f} bit   perplexity x {ratio:.2f}")
    say("", f"{folder}")
