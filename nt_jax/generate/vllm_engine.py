"""vLLM in place of our own engine, in a process of its own: token ids in, token ids out.

It reads a plain Hugging Face folder, such as the one a run exports, so it serves a tuned model as
well as its base. Our own engine needs no export: it takes the factors as they are.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from nt_jax.checkpoints.checkpoint import Checkpoint, open_checkpoint
from nt_jax.errors import CheckpointError, ConfigError, RunError
from nt_jax.generate.decode import GREEDY, Sampling
from nt_jax.generate.engine import OnBatch, before_eos, check_lengths

WORKER = "nt_jax.generate.vllm_worker"


def check_vllm(checkpoint: Checkpoint) -> Path:
    """The folder that vLLM reads; raises, before any work, where it cannot."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "eval.engine=vllm: vLLM is not installed: pip install 'nt_jax[vllm]', or use "
            "eval.engine=jax"
        )
    if checkpoint.directory is None:
        raise CheckpointError(
            f"eval.engine=vllm: vLLM is given Hugging Face folders only, and {checkpoint.path} is "
            "none. Use eval.engine=jax."
        )
    return checkpoint.directory


def vllm_answers(
    folder: Path,
    dtype: str,
    prompts: Sequence[Sequence[int]],
    *,
    max_new: int,
    on_batch: OnBatch | None = None,
    sampling: Sampling = GREEDY,
) -> list[list[int]]:
    """What `answer_prompts` returns, by vLLM on a Hugging Face folder.

    Its process lives for this call and then frees the device. Raises a RunError with its last
    line if it fails.
    """
    config = open_checkpoint(str(folder)).config
    check_lengths(config.max_positions, prompts, max_new)
    answers: list[list[int]] = [[] for _ in prompts]
    if not prompts:
        return answers
    job = {
        "folder": str(folder), "dtype": dtype, "max_new": max_new,
        "max_length": max(map(len, prompts)) + max_new,
        "temperature": sampling.temperature, "seed": sampling.seed,
        "eos_ids": list(config.eos_ids), "prompts": [list(ids) for ids in prompts],
    }  # fmt: skip
    missing = set(range(len(prompts)))
    with tempfile.TemporaryFile("w+") as log:
        command, pipe = [sys.executable, "-m", WORKER], subprocess.PIPE
        with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=log) as worker:
            for rows, made in _talk(worker, job):
                done = [before_eos(config.eos_ids, new) for new in made]
                for row, answer in zip(rows, done, strict=True):
                    answers[row] = answer
                missing -= set(rows)
                if on_batch is not None:
                    on_batch(rows, done)
        if worker.returncode or missing:
            answered = len(prompts) - len(missing)
            raise RunError(
                f"vLLM failed after {answered} of {len(prompts)} answers: {_last_line(log)}"
            )
    return answers


def _talk(worker: subprocess.Popen, job: dict) -> Iterator[tuple[list[int], list[list[int]]]]:
    """(prompt numbers, new tokens) as the worker finishes them."""
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(job))
        worker.stdin.close()
    except BrokenPipeError:  # it died before it had read all; its log says why
        return
    for line in worker.stdout:
        batch = json.loads(line)
        yield batch["rows"], batch["tokens"]


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return lines[-1] if lines else "it said nothing"
