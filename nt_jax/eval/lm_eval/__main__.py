"""lm-evaluation-harness on our engine: any of its tasks, on a run or on any model that we read.

    python -m nt_jax.eval.lm_eval --model runs/NAME --tasks arc_easy,hellaswag --json scores.json

Needs the `lm-eval` extra, which brings no torch. The model as a Python object: eval/harness.py.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nt_jax.atomic import write_atomic
from nt_jax.cli import prepare_environment
from nt_jax.errors import ConfigError, NtError


def main(argv: Sequence[str] | None = None) -> int:
    """Run tasks of the harness, print its table; 0 done, 2 an error that the user can act on."""
    options = _parser().parse_args(argv)
    prepare_environment(os.environ)
    try:
        results = evaluate(options)
    except NtError as error:
        print(f"nt_jax: {error}", file=sys.stderr)
        return 2
    from lm_eval.utils import make_table  # pyright: ignore[reportMissingImports]

    if options.json:
        scores = {name: results[name] for name in ("results", "n-shot", "versions")}
        write_atomic(Path(options.json), f"{json.dumps(scores, indent=2)}\n".encode())
    print(make_table(results))
    return 0


def evaluate(options: argparse.Namespace) -> dict:
    """The harness's results."""
    try:
        from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"lm-evaluation-harness cannot be imported ({error}): pip install 'nt_jax[lm-eval]'"
        ) from error
    from nt_jax.eval.lm_eval.model import JaxLM

    manager = TaskManager(include_path=options.task_folder)
    names = options.tasks.split(",")
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise ConfigError(
            f"lm-evaluation-harness has no task '{unknown[0]}'; `lm-eval ls tasks` lists them, "
            "--task-folder adds your own"
        )
    found = simple_evaluate(
        model=JaxLM(options.model, options.dtype, options.batch_size),
        tasks=names,
        num_fewshot=options.shots,
        limit=options.limit,
        apply_chat_template=options.chat,
        task_manager=manager,
    )
    return dict(found or {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nt_jax.eval.lm_eval", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--model", required=True, help="run directory, HF folder, GGUF or hub id")
    parser.add_argument("--tasks", required=True, help="names, separated by commas")
    parser.add_argument("--task-folder", metavar="DIR", help="with task files of your own")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch-size", type=int, default=32, help="rows at a time (default: 32)")
    parser.add_argument("--shots", type=int, help="examples before each question")
    parser.add_argument("--limit", type=int, help="documents per task")
    parser.add_argument("--chat", action="store_true", help="ask through the chat template")
    parser.add_argument("--json", metavar="FILE", help="write the scores there as well")
    return parser


if __name__ == "__main__":
    sys.exit(main())
