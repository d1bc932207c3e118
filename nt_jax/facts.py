"""run.json: what made the result of a run, read and checked."""

import json
from pathlib import Path
from typing import Any

from nt_jax.atomic import read_text
from nt_jax.errors import RunError


def read_facts(run_dir: Path) -> dict[str, Any]:
    """What run.json says; raises a RunError where it is not what we wrote."""
    file = run_dir / "run.json"
    try:
        facts = json.loads(read_text(file) or "{}")
        wrong = _wrong_in(facts)
    except (OSError, ValueError, RecursionError) as error:
        wrong = str(error)
    if wrong:
        raise RunError(
            f"{file} is damaged ({wrong}). Delete it, then repeat the command that made it: "
            "finished stages are kept."
        )
    return facts


def _wrong_in(facts: object) -> str | None:
    """What is not as `RunDirectory.record` writes it, in words."""
    if not isinstance(facts, dict):
        return f"it holds a {type(facts).__name__} in place of settings"
    for name, inner in (("config", None), ("keys", str), ("hashes", str), ("stages", dict)):
        value = facts.get(name, {})
        if not isinstance(value, dict):
            return f"its '{name}' is a {type(value).__name__}"
        if inner and not all(isinstance(each, inner) for each in value.values()):
            return f"its '{name}' holds something else"
    stages = facts.get("stages", {}).values()
    if not all(isinstance(stage.get("wall_seconds"), int | float) for stage in stages):
        return "its 'stages' hold no times"
    return None


def held_by(path: Path, holder: Path) -> str:
    """The message for a second run in the same directory."""
    try:
        known = json.loads(read_text(holder) or "{}")
        who = "process {pid} on {host}, since {since}".format(**known)
    except (OSError, ValueError, KeyError, TypeError):  # the other run is just starting
        who = "another process"
    return (
        f"{path} is in use by {who}. Wait until it ends, or choose another folder with "
        "run_dir=DIR; nothing was changed."
    )
