"""What reads files that others made, each as one function of a path; none starts jax's backend."""

import contextlib
import hashlib
import io
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from nt_jax import cli, exits
from nt_jax.checkpoints.adapter import open_adapter
from nt_jax.checkpoints.checkpoint import Checkpoint, fingerprint, open_checkpoint
from nt_jax.checkpoints.factors import read_factors
from nt_jax.checkpoints.tokenizer import decode
from nt_jax.cluster import place_of
from nt_jax.config.grid import cells_of, read_axes
from nt_jax.config.load import load_config
from nt_jax.data.prompts import text_of
from nt_jax.data.sources import load_choices, load_harmful, load_harmless, load_templates
from nt_jax.errors import RunError
from nt_jax.eval.judges.judge import open_judge
from nt_jax.generate import http
from nt_jax.generate.chat import ChatText
from nt_jax.generate.served import IDS, Question, Server
from nt_jax.options import parser_of


def read_model(path: Path) -> dict[str, Any]:
    """Everything a checkpoint says: config, tensors, and the ids of a chat."""
    checkpoint = open_checkpoint(str(path))
    fingerprint(checkpoint)
    return {"config": checkpoint.config, "tensors": digests(checkpoint), **_chat(checkpoint)}


def read_tokenizer(path: Path) -> dict[str, Any]:
    """The same without the tensors."""
    return _chat(open_checkpoint(str(path)))


def read_recipe(path: Path) -> dict[str, Any]:
    """All settings of a recipe."""
    return load_config(str(path)).model_dump(mode="json")


def read_override(path: Path) -> dict[str, Any]:
    """All settings of a recipe after the override that a file holds."""
    return load_config("smollm2-135m", [path.read_text("utf-8")]).model_dump(mode="json")


def read_requests(path: Path) -> list[tuple]:
    """The harmless requests of a data file."""
    return [(r.id, r.prompt, r.answer, r.split) for r in load_harmless(str(path))]


def read_attacks(path: Path) -> list[tuple]:
    """The attack templates of a data file."""
    return [(t.id, t.text, t.types, t.split) for t in load_templates(str(path))]


def read_harmful(path: Path) -> list[tuple]:
    """The harmful requests of a data file."""
    return [(r.id, r.prompt, r.refusal, r.split) for r in load_harmful(str(path))]


def read_questions(path: Path) -> list[tuple]:
    """The choice questions of a data file."""
    return [(q.id, q.request, q.choices, q.key) for q in load_choices(str(path))]


def read_adapter(path: Path, base: Path) -> dict[str, dict[str, Any]]:
    """The parts of each module of an adapter that fits the model at `base`."""
    return open_adapter(path, open_checkpoint(str(base)).config).modules


def read_own_factors(path: Path) -> bytes:
    """The factors of a file."""
    found = read_factors(path)
    return found.scale_LF().tobytes()


def digests(checkpoint: Checkpoint) -> dict[str, str]:
    """A hash of every tensor, as the model would get it."""
    return {
        name: hashlib.sha256(checkpoint.read(name).tobytes()).hexdigest()
        for name in checkpoint.tensors
    }


def _chat(checkpoint: Checkpoint) -> dict[str, Any]:
    chat = ChatText(checkpoint)
    return {
        "ids": chat.encode("Hello, how are you?"),
        "end": chat.end_id,
        "turn": chat.plain_turn_end,
    }


def command(name: str, words: list[str]) -> str:
    """What a command printed. Raises a RunError of what it said where it ended otherwise."""
    said, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        code = cli.main(name, words)
    if code == exits.BUG:
        raise AssertionError(said.getvalue())
    if code != exits.DONE:
        raise RunError(said.getvalue())
    return shown.getvalue()


def read_run(path: Path) -> bytes:
    """The factors that a finished run exports through the command line."""
    out = path.parent / "out"
    command("export", ["--run", str(path), "--out", str(out), "--format", "factors"])
    return read_factors(out).scale_LF().tobytes()


def read_sent(path: Path) -> None:
    """A run.json that somebody sent, up to where the run would begin."""
    from nt_jax.run import reproduce

    def begins(config: Any, **_: Any) -> None:
        raise RunError(f"{config.name} would begin")

    with mock.patch.object(reproduce.pipeline, "run", begins):
        command("reproduce", [str(path), "--run-dir", str(path.parent / "again")])


def read_grid(path: Path) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """The cells of the axes and settings that stand in a file, a word a line."""
    axes, rest = read_axes(path.read_text("utf-8").split("\n"))
    cells = cells_of("smollm2-135m", axes, rest)
    return [(cell.settings, cell.config.model_dump(mode="json")) for cell in cells]


def read_place(path: Path) -> tuple[str | None, int | None, int | None] | None:
    """The place among several processes that the flags in a file give, a word a line."""
    words = path.read_text("utf-8").split("\n")
    found = place_of(parser_of("train", "nt-jax train").read(words), {})
    return None if found is None else tuple(found)


def read_ray(path: Path) -> str | None:
    """The address of a cluster of Ray that the words of a file give, a word a line."""
    words = path.read_text("utf-8").split("\n")
    return parser_of("sweep", "nt-jax sweep").read(words).ray


def read_chat(path: Path, model: Path) -> list[str]:
    """What was asked in a conversation whose lines are a file's; each is answered by itself."""
    from nt_jax.chat import screen, sides

    asked: list[str] = []
    text = ChatText(open_checkpoint(str(model)))
    judge = open_judge("phrases")

    class Echo(sides.Sides):
        """Sides that say what they are asked."""

        def answers(self, prompts):
            asked.append(text_of(prompts["base"]))
            ids = {name: self.model.chat.encode(prompt) for name, prompt in prompts.items()}
            yield {name: each[:64] for name, each in ids.items()}  # or turns double, as no model's

    def opened(run_dir, strength, system, max_new, model=None) -> Echo:
        chat = text.under(system)
        said = lambda ids: decode(chat.tokenizer, ids)  # noqa: E731
        words = SimpleNamespace(
            chat=chat, text=said, answer_text=lambda ids: chat.opened + said(ids)
        )
        return Echo(words, {}, judge, 8)

    with (
        path.open("rb") as lines,
        mock.patch.object(sys, "stdin", io.TextIOWrapper(lines, "utf-8")),
        mock.patch.object(screen, "open_sides", opened),
    ):
        command("chat", ["--run", "x"])
    return asked


VOCAB = 20  # of the model that reference logits are for


def read_logits(path: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Tokens and logits of a reference, and how far they are from a model that knows nothing."""
    from nt_jax.doctor.logits import apart, read_reference

    model: Any = SimpleNamespace(name="x", model=SimpleNamespace(vocab_size=VOCAB), checkpoint=path)
    tokens, given = read_reference(model, path)
    return tokens, given, apart(np.zeros_like(given), given)


ANSWERS = ("I cannot help with that.", "Sure, here is how.", "", "Paris is old. " * 60, "No.")


def read_classifier(path: Path) -> list[float]:
    """Verdicts of the classifier in a folder on ANSWERS."""
    judge = open_judge(f"classifier:{path}")
    return judge.verdicts([""] * len(ANSWERS), ANSWERS)


def read_reply(path: Path) -> str:
    """The answer of a server whose every reply is a file's bytes."""
    content = path.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer_all, args=(listening, content), daemon=True).start()
        server = Server(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", "x", 1, [IDS])
        with mock.patch.object(http, "PAUSES", (0.0,)):
            with contextlib.suppress(RunError):
                server.check()
            (reply,) = server.answer([Question([1, 2, 3], [])], 4)
    (path.parent / "answer.txt").write_text(reply.text, "utf-8")  # as it would be kept
    return reply.text


def answer_all(listening: socket.socket, content: bytes) -> None:
    """Send it to whoever asks, in the order in which they do, until nobody listens."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.settimeout(2)
            connection.recv(1 << 16)
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):  # closed with bytes unread, replies would be lost
                pass
