"""Commands as a terminal gives them; what would do the work only notes what it is handed."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from nt_jax import cli

ROOT = Path(__file__).parents[1]
HEAVY = ("jax", "flax", "transformers", "datasets", "torch", "numpy", "rich")


def python(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environ}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env)


def hand_over(monkeypatch, **takers) -> None:
    """Let these functions take what commands hand over, in place of those that do the work."""
    homes = {
        "run": "nt_jax.run.pipeline", "export_run": "nt_jax.run.export",
        "describe": "nt_jax.run.dry_run", "evaluate_model": "nt_jax.run.evaluate",
        "compare": "nt_jax.compare.pipeline", "run_tasks": "nt_jax.eval.lm_eval.tasks",
        "show_factors": "nt_jax.run.factors", "reproduce": "nt_jax.run.reproduce",
        "report_again": "nt_jax.run.report",
        "sweep": "nt_jax.sweep.sweep",
        "doctor": "nt_jax.doctor.look", "menu": "nt_jax.sweep.menu",
    }  # fmt: skip
    for name, home in homes.items():
        module = types.ModuleType(home)
        module.__dict__[name] = takers.get(name)
        monkeypatch.setitem(sys.modules, home, module)
    monkeypatch.setattr(cli, "_enter", lambda: None)  # it changes the whole process: tested apart


@pytest.fixture
def calls(monkeypatch) -> list:
    """What the commands hand over, without running them."""
    made: list = []

    def keep(*words, **more) -> None:
        made.append((*words, more) if more else words)

    def compare(config, verify, ray) -> dict:
        made.append((config, verify) if ray is None else (config, verify, ray))
        return {"run": config.name}

    takers = dict.fromkeys(
        ("run", "export_run", "evaluate_model", "run_tasks", "show_factors"), keep
    )
    takers["sweep"] = lambda *words: made.append(words) or {"run": "here"}
    takers["doctor"] = lambda *words: made.append(words) or {"fits": words[0] != "large"}
    describe = lambda config: [f"the plan of {config.name}"]  # noqa: E731
    hand_over(monkeypatch, compare=compare, describe=describe, **takers)
    return made
