"""A chat template tried where it can be stopped, before it is rendered in earnest.

A template is a program: it may loop, and `{{ 'x' * 10**10 }}` is one C call that no sandbox stops.
So the first chats are rendered in a child process with little time and memory, once a template.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from nt_jax.data.prompts import ROLES
from nt_jax.errors import CheckpointError
from nt_jax.limits import (
    TEMPLATE_BYTES,
    TEMPLATE_CHARACTERS,
    TEMPLATE_MEMORY,
    TEMPLATE_MILLISECONDS,
)

CHILD = Path(__file__).with_name("trial_child.py")
WALL = 300  # seconds by the clock, on however busy a machine, until a child is given up
READY = b"ready"  # what the child says once it begins to render
_SYSTEM, _ASKED, _ANSWERED = ({"role": role, "content": f"A text of the {role}."} for role in ROLES)
CHATS = (
    (_ASKED,), (_ASKED, _ANSWERED), (_SYSTEM, _ASKED), (_SYSTEM, _ASKED, _ANSWERED, _ASKED),
)  # fmt: skip


def try_template(template: str, settings: Mapping[str, object], where: str) -> None:
    """Raises a CheckpointError where rendering a short chat takes too much time or memory.

    `settings`: what the template is given besides; `where`: the tokenizer's place, for the error.
    A template is tried once in a process.
    """
    problem = _problem(template, json.dumps(dict(settings), sort_keys=True, default=str))
    if problem:
        raise CheckpointError(f"{where}: its chat template {problem}")


@functools.lru_cache(maxsize=64)
def _problem(template: str, settings: str) -> str:
    """What is wrong with a template, or nothing."""
    if len(template) > TEMPLATE_BYTES.value:
        return (
            f"has {len(template):,} characters; at most {TEMPLATE_BYTES.value:,} are read. Copy it "
            "from the original model."
        )
    job = {
        "template": template, "chats": CHATS, "settings": json.loads(settings),
        "seconds": TEMPLATE_MILLISECONDS.value / 1000, "memory": TEMPLATE_MEMORY.value,
        "characters": TEMPLATE_CHARACTERS.value,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-P", str(CHILD)],
            input=json.dumps(job).encode(), capture_output=True, timeout=WALL, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"was stopped after {WALL} s. Copy the template from the original model."
    if not done.stdout.startswith(READY):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return f"cannot be tried in a process of its own ({', '.join(last) or done.returncode})."
    if done.returncode:
        return (
            f"was stopped: one short chat takes more than {TEMPLATE_MILLISECONDS.value} ms, "
            f"{TEMPLATE_MEMORY.value // 1_000_000} MB or {TEMPLATE_CHARACTERS.value:,} characters. "
            "Copy the template from the original model."
        )
    return ""
