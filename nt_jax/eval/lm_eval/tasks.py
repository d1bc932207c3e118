"""Any task of lm-evaluation-harness on a run or on any model that we read (extra `lm-eval`)."""

import json
from collections.abc import Sequence
from pathlib import Path

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
    try:
        from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore
        from lm_eval.utils import make_table  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"lm-evaluation-harness cannot be imported ({error}): pip install 'nt_jax[lm-eval]'"
        ) from error
    from nt_jax.eval.lm_eval.model import JaxLM

    manager = TaskManager(include_path=task_folder)
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        raise ConfigError(
            f"lm-evaluation-harness has no task '{unknown[0]}'; `lm-eval ls tasks` lists them, "
            "--task-folder adds your own"
        )
    results = simple_evaluate(
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
    return make_table(results)
