"""Tasks of lm-evaluation-harness on models under test, question by question (eval.harness).

Every model gets the same questions, so that changes can be paired (nt_jax/eval/metrics/tasks.py).
Metrics whose scores all lie in 0..1 and of which more is better are kept, if every model has them;
others, such as perplexities, are named on the screen.
"""

import json
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from nt_jax.atomic import write_atomic
from nt_jax.config.evaluation import EvalConfig
from nt_jax.console import say
from nt_jax.errors import ConfigError
from nt_jax.eval.lm_eval.tasks import allowed, imported, known_tasks, readable_tasks
from nt_jax.eval.measure import TASKS
from nt_jax.eval.metrics.result import in_order
from nt_jax.eval.under_test import ModelUnderTest


def check_tasks(config: EvalConfig) -> None:
    """Raises a ConfigError, in one line, for a task that is unknown, unread or not allowed."""
    readable_tasks(config.harness, config.harness_folder, "eval.harness: ")


def run_paired(subject: ModelUnderTest, config: EvalConfig, thinking: bool, folder: Path) -> str:
    """Every question of eval.harness, scored; tasks that `folder` holds already are not repeated.

    Files: tasks-N.jsonl for the Nth task, {dataset, id, model, metric, value} a line.
    """
    from nt_jax.eval.lm_eval.model import JaxLM

    lm, count = None, 0
    for number, name in enumerate(config.harness):
        path = folder / f"tasks-{number}.jsonl"
        if not path.exists():
            if lm is None:
                size = {"batch_size": config.batch_size, "thinking": thinking}
                lm = JaxLM(subject.model, scale_LF=subject.factors_LF, **size)
            rows = [{"model": subject.name, **row} for row in task_rows(lm, name, config)]
            write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        count += len(path.read_text(encoding="utf-8").splitlines())
    return f"{count} scores of {len(config.harness)} tasks of lm-evaluation-harness"


def join_tasks(folders: Sequence[Path], config: EvalConfig, out: Path) -> None:
    """The scores of all models in one file; metrics that not all of them have are left out."""
    models = [_rows(where, len(config.harness)) for where in folders]
    known = [in_order((row["dataset"], row["metric"]) for row in rows) for rows in models]
    shared = set(known[0]).intersection(*known[1:])
    for task, metric in in_order(place for places in known for place in places):
        if (task, metric) not in shared:
            say("left out", f"{metric} of {task}: outside 0..1 for some model")
    kept = [row for rows in models for row in rows if (row["dataset"], row["metric"]) in shared]
    (out / TASKS).write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")


def _rows(folder: Path, tasks: int) -> list[dict]:
    paths = [folder / f"tasks-{number}.jsonl" for number in range(tasks)]
    return [json.loads(ln) for path in paths for ln in path.read_text("utf-8").splitlines()]


def task_rows(lm: Any, name: str, config: EvalConfig) -> list[dict]:
    """{dataset, id, metric, value} of every question of one task, or group of tasks."""
    found = imported("lm_eval.evaluator").simple_evaluate(
        model=lm,
        tasks=[name],
        limit=config.limit,
        apply_chat_template=config.harness_chat,
        system_instruction=config.system_prompt if config.harness_chat else None,
        task_manager=known_tasks([name], config.harness_folder),
        log_samples=True,
        bootstrap_iters=0,
        confirm_run_unsafe_code=allowed(),
    )
    rows = sample_rows(name, found["samples"], found["higher_is_better"])
    documents = [row for docs in found["samples"].values() for row in docs]
    others = in_order(_called(row, metric) for row in documents for metric in row["metrics"])
    others = [metric for metric in others if metric not in {row["metric"] for row in rows}]
    if not rows:
        raise ConfigError(
            f"eval.harness: '{name}' has no score of single questions in 0..1 of which more is "
            f"better ({', '.join(others)}). Leave it out: it cannot be paired."
        )
    if others:
        say("left out", f"{', '.join(others)} of {name}: not all in 0..1, or less is better")
    return rows


def sample_rows(
    name: str, samples: Mapping[str, Sequence[Mapping]], better: Mapping[str, Mapping]
) -> list[dict]:
    """The same of the harness's samples, by subtask.

    One score outside 0..1 shows that its metric has another scale: the others in 0..1 go as well.
    """
    rows, beyond = [], set()
    for task, documents in samples.items():
        for document in documents:
            for metric in document["metrics"]:
                if not better.get(task, {}).get(metric):
                    continue
                value, called = score(document[metric]), _called(document, metric)
                if value is None:
                    beyond.add(called)
                place = {"dataset": name, "id": f"{task}/{document['doc_id']}"}
                rows.append({**place, "metric": called, "value": value})
    return [row for row in rows if row["metric"] not in beyond]


def _called(document: Mapping, metric: str) -> str:
    """The name of a metric of one sample, with the filter that its answer went through."""
    which = document.get("filter", "none")
    return metric if which == "none" else f"{metric},{which}"


def score(value: Any) -> float | None:
    """A score in 0..1; a question with several parts (IFEval's instructions) has their mean.

    None of a tuple: those are what the harness makes a score of over all questions (F1, MCC).
    """
    if isinstance(value, list) and value:
        parts = [score(part) for part in value]
        known = [part for part in parts if part is not None]
        return sum(known) / len(known) if len(known) == len(parts) else None
    if isinstance(value, Real) and 0 <= float(value) <= 1:
        return float(value)
    return None
