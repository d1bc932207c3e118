"""Any task of lm-evaluation-harness on a run or on any model that we read (extra `lm-eval`)."""

import functools
import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nt_jax.atomic import write_atomic
from nt_jax.errors import ConfigError

KEPT = ("results", "n-shot", "versions")  # of the harness's results, in the file of scores
UNSAFE = "HF_ALLOW_CODE_EVAL"  # the harness runs answers as code only where it is 1
CODE = (
    "'{}' runs the models' answers as code on this machine. Where that can do no harm, allow it: "
    f"{UNSAFE}=1 in the environment; else leave it out."
)


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
    if json_file is not None and not Path(json_file).absolute().parent.is_dir():
        raise ConfigError(f"--json {json_file}: there is no such folder. Make it first.")
    if json_file is not None and Path(json_file).is_dir():
        raise ConfigError(f"--json {json_file}: is a folder. Name a file.")
    manager = readable_tasks(tasks, task_folder)
    from nt_jax.eval.lm_eval.model import JaxLM

    results = imported("lm_eval.evaluator").simple_evaluate(
        model=JaxLM(model, dtype, batch_size, thinking=thinking),
        tasks=list(tasks),
        num_fewshot=shots,
        limit=limit,
        apply_chat_template=chat,
        system_instruction=system_prompt,
        task_manager=manager,
        confirm_run_unsafe_code=allowed(),
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
    folder = folder and str(Path(folder).expanduser())
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(
            f"there is no folder {folder}: --task-folder (eval.harness_folder) names one with task "
            "files"
        )
    manager = _manager(folder)
    if unknown := [name for name in tasks if name not in manager.all_tasks]:
        raise ConfigError(
            f"lm-evaluation-harness has no task '{unknown[0]}'; `lm-eval ls tasks` lists them, "
            "--task-folder (eval.harness_folder) adds your own"
        )
    return manager


def readable_tasks(tasks: Sequence[str], folder: str | None, where: str = "") -> Any:
    """The same, once every task has been read.

    A ConfigError, which begins with `where`, for one that is unread, or runs code unallowed.
    """
    manager = known_tasks(tasks, folder)
    for name in tasks:
        try:
            found = imported("lm_eval.tasks").get_task_dict([name], manager)
        except Exception as error:
            raise ConfigError(where + why_unread(name, error)) from error
        runs_code = any(getattr(task, "UNSAFE_CODE", False) for task in single_tasks(found))
        if runs_code and not allowed():
            raise ConfigError(where + CODE.format(name))
    return manager


def allowed() -> bool:
    """Whether tasks may run answers as code on this machine."""
    return os.environ.get(UNSAFE) == "1"


def why_unread(name: str, error: Exception) -> str:
    """What to do about a task that the harness could not read, whatever it says of it."""
    if UNSAFE in str(error):  # some try their metric out while they are read
        return CODE.format(name)
    said = (" ".join(str(error).split()) or type(error).__name__)[:200]
    if isinstance(error, ImportError):
        return (
            f"'{name}' needs a package that is not here ({said}); the harness has extras for its "
            f"tasks: pip install 'lm-eval[{name}]'"
        )
    return (
        f"the questions of '{name}' cannot be read ({said}). Tasks of the harness come from the "
        "hub, unless eval.harness_folder holds them; leave it out where there is no network."
    )


def single_tasks(found: Mapping[Any, Any]) -> Iterator[Any]:
    """The tasks in what the harness has read, those of its groups too."""
    for value in found.values():
        if isinstance(value, Mapping):
            yield from single_tasks(value)
        else:
            yield value


@functools.cache
def _manager(folder: str | None) -> Any:
    """Once a process: it reads thousands of files, for some ten seconds."""
    return imported("lm_eval.tasks").TaskManager(include_path=folder)
