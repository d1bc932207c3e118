"""Any task of lm-evaluation-harness on a run or on any model that we read (extra `lm-eval`)."""

import functools
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nt_jax.atomic import write_atomic
from nt_jax.errors import ConfigError

KEPT = ("results", "n-shot", "versions")  # of the harness's results, in the file of scores


def run_tasks(
    model: str,
    tasks: Sequence[str],
    *,
    task_folder: str | None = None,
    dtype: str = "float32",
    batch_size: int = 32,
    shots: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    system_prompt: str | None = None,
    thinking: bool = False,
    json_file: str | None = None,
) -> str:
    """The harness's table of results, which also go to `json_file`.

    `system_prompt` and `thinking` are for chats: those of eval.system_prompt and model.thinking.
    """
    if (system_prompt or thinking) and not chat:
        raise ConfigError("--system-prompt and --thinking are parts of a chat: add --chat")
    manager = known_tasks(tasks, task_folder)
    from nt_jax.eval.lm_eval.model import JaxLM

    results = imported("lm_eval.evaluator").simple_evaluate(
        model=JaxLM(model, dtype, batch_size, thinking=thinking),
        tasks=list(tasks),
        num_fewshot=shots,
        limit=limit,
        apply_chat_template=chat,
        system_instruction=system_prompt,
        task_manager=manager,
    )
    results = dict(results or {})
    if json_file is not None:
        scores = {name: results[name] for name in KEPT}
        write_atomic(Path(json_file), f"{json.dumps(scores, indent=2)}\n".encode())
    return imported("lm_eval.utils").make_table(results)


def imported(module: str) -> Any:
    """A module of the harness; a ConfigError where it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"lm-evaluation-harness cannot be imported ({error}): pip install 'nt_jax[lm-eval]'"
        ) from error


def known_tasks(tasks: Sequence[str], folder: str | None) -> Any:
    """The harness's task manager; a ConfigError where it does not know one of the tasks."""
    imported("lm_eval.evaluator")
    manager = _manager(folder)
    if unknown := [name for name in tasks if name not in manager.all_tasks]:
        raise ConfigError(
            f"lm-evaluation-harness has no task '{unknown[0]}'; `lm-eval ls tasks` lists them, "
            "--task-folder (eval.harness_folder) adds your own"
        )
    return manager


@functools.cache
def _manager(folder: str | None) -> Any:
    """Once a process: it reads thousands of files, for some ten seconds."""
    return imported("lm_eval.tasks").TaskManager(include_path=folder)
