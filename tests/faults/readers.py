"""What reads files that others made, each as one function of a path; none starts a backend."""

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

from nt_jax import exits
from nt_jax.checkpoints.adapter import open_adapter
from nt_jax.checkpoints.checkpoint import Checkpoint, fingerprint, open_checkpoint
from nt_jax.checkpoints.factors import read_factors
from nt_jax.config.load import load_config
from nt_jax.data.sources import load_choices, load_harmful, load_harmless, load_templates
from nt_jax.errors import RunError
from nt_jax.generate.chat import ChatText


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


def read_adapter(path: Path, base: Path) -> list[str]:
    """The modules of an adapter that fits the model at `base`."""
    return sorted(open_adapter(path, open_checkpoint(str(base)).config).modules)


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


def read_run(path: Path) -> bytes:
    """The factors that a finished run exports through the command line."""
    from nt_jax import cli

    out = path.parent / "out"
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main("export", ["--run", str(path), "--out", str(out), "--format", "factors"])
    if code == exits.BUG:
        raise AssertionError(said.getvalue())
    if code != exits.DONE:
        raise RunError(said.getvalue())
    return read_factors(out).scale_LF().tobytes()
