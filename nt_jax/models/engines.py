"""Who decodes: our own engine, or vLLM in a process of its own. Both answer token ids by token ids.

vLLM reads a plain Hugging Face folder, such as the one a run exports, so it serves a tuned model
as well as its base; our engine needs no export, it takes the factors as they are.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from jax import Array

from nt_jax.errors import CheckpointError, ConfigError, RunError
from nt_jax.models.answers import OnBatch, answer_prompts, before_eos, check_lengths
from nt_jax.models.decode import GREEDY, Sampling
from nt_jax.models.hf_directory import open_directory
from nt_jax.models.transformer import LanguageModel

WORKER = "nt_jax.models.vllm_worker"


class Engine(Protocol):
    """Anything that answers prompts."""

    name: str

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        max_new: int,
        on_batch: OnBatch | None = None,
        sampling: Sampling = GREEDY,
    ) -> list[list[int]]:
        """Answers as token ids, cut before their first EOS; see `answer_prompts`."""
        ...


@dataclass(frozen=True)
class JaxEngine:
    """`answer_prompts` with a model and its factors [L, F]."""

    lm: LanguageModel
    scale_LF: Array
    batch_size: int = 32
    name: str = "jax"

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        max_new: int,
        on_batch: OnBatch | None = None,
        sampling: Sampling = GREEDY,
    ) -> list[list[int]]:
        """Answers as token ids, cut before their first EOS."""
        return answer_prompts(
            self.lm, self.scale_LF, prompts, max_new=max_new, batch_size=self.batch_size,
            on_batch=on_batch, sampling=sampling,
        )  # fmt: skip


@dataclass(frozen=True)
class VllmEngine:
    """vLLM on a Hugging Face folder; it lives for one call and then frees the device."""

    folder: Path
    dtype: str = "bfloat16"
    name: str = "vllm"

    def __post_init__(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "vLLM is not installed: pip install 'nt_jax[vllm]', or choose the engine jax"
            )
        if not self.folder.is_dir():
            raise CheckpointError(
                f"vLLM reads Hugging Face folders only, and {self.folder} is none."
            )

    def answer(
        self,
        prompts: Sequence[Sequence[int]],
        max_new: int,
        on_batch: OnBatch | None = None,
        sampling: Sampling = GREEDY,
    ) -> list[list[int]]:
        """Answers as token ids, cut before their first EOS."""
        config, _ = open_directory(self.folder)
        check_lengths(config.max_positions, prompts, max_new)
        answers: list[list[int]] = [[] for _ in prompts]
        if not prompts:
            return answers
        job = {
            "folder": str(self.folder), "dtype": self.dtype, "max_new": max_new,
            "temperature": sampling.temperature, "seed": sampling.seed,
            "eos_ids": list(config.eos_ids), "prompts": [list(ids) for ids in prompts],
        }  # fmt: skip
        missing = set(range(len(prompts)))
        with tempfile.TemporaryFile("w+") as log:
            command = [sys.executable, "-m", WORKER]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            with subprocess.Popen(command, text=True, **pipes) as worker:
                for rows, made in _talk(worker, job):
                    done = [before_eos(config.eos_ids, new) for new in made]
                    for row, answer in zip(rows, done, strict=True):
                        answers[row] = answer
                    missing -= set(rows)
                    if on_batch is not None:
                        on_batch(rows, done)
            if worker.returncode or missing:
                raise RunError(f"vLLM failed after {len(prompts) - len(missing)} of {len(prompts)} "
                               f"answers: {_last_line(log)}")  # fmt: skip
        return answers


def _talk(worker: subprocess.Popen, job: dict):
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
