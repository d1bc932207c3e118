"""One run's model, tokenizer, judge and screen; the weights are read when first needed."""

import contextlib
import copy
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax import Array
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from nt_jax.checkpoints.checkpoint import Checkpoint, load_model, open_checkpoint
from nt_jax.checkpoints.tokenizer import decode, encode_answer, encode_chat, load_tokenizer
from nt_jax.config.schema import RunConfig
from nt_jax.errors import CheckpointError
from nt_jax.eval.judges.phrase_judge import load_judge
from nt_jax.eval.prompts import TestChoice, TestPrompt, check_room, test_choices, test_prompts
from nt_jax.generate.engine import OnBatch, answer_prompts
from nt_jax.generate.vllm_engine import vllm_answers
from nt_jax.mesh import make_mesh
from nt_jax.models.transformer import LanguageModel

LABEL = 11  # columns of the stage name at the left edge of the screen
SAMPLE_BYTES = 1 << 16  # of each tensor, to tell checkpoints apart


class Session:
    """What all stages of one run share."""

    def __init__(self, config: RunConfig, console: Console):
        self.config, self.console = config, console
        self.checkpoint: Checkpoint = open_checkpoint(config.model.source, config.model.revision)
        self.judge = load_judge(config.eval.judge)
        self._encoded: dict[str, list[int]] = {}

    @functools.cached_property
    def tokenizer(self):
        """The checkpoint's tokenizer."""
        return load_tokenizer(self.checkpoint)

    @functools.cached_property
    def lm(self) -> LanguageModel:
        """The model on the mesh of the config."""
        mesh = make_mesh(self.config.mesh.data, self.config.mesh.model)
        return load_model(self.checkpoint, self.config.model.dtype, mesh)

    @functools.cached_property
    def prompts(self) -> list[TestPrompt]:
        """The requests of the test sets."""
        return test_prompts(self.config.eval)

    @functools.cached_property
    def choices(self) -> list[TestChoice]:
        """The choice questions of the test sets."""
        return test_choices(self.config.eval)

    def of(self, source: str) -> "Session":
        """A session of another checkpoint, everything else alike."""
        model = self.config.model.model_copy(update={"source": source, "revision": None})
        return Session(self.config.model_copy(update={"model": model}), self.console)

    def under(self, config: RunConfig) -> "Session":
        """The same model under other settings; weights that are in memory are shared."""
        other = copy.copy(self)
        other.config = config
        return other

    def edited(self, lm: LanguageModel) -> "Session":
        """The same settings and tokenizer, with `lm` in place of the checkpoint's weights."""
        other = copy.copy(self)
        other.__dict__["lm"] = lm  # what the cached property would hold
        return other

    @property
    def eos_id(self) -> int:
        """The token that ends an answer in training."""
        if not self.checkpoint.config.eos_ids:
            raise CheckpointError(
                f"{self.checkpoint.path} names no end-of-answer token. Add eos_token_id to its "
                "config.json or generation_config.json."
            )
        return self.checkpoint.config.eos_ids[0]

    def encode(self, request: str) -> list[int]:
        """Prompt ids of a one-turn chat; remembered, since batches ask again and again."""
        if request not in self._encoded:
            self._encoded[request] = encode_chat(self.tokenizer, request)
        return self._encoded[request]

    def check_tests(self) -> None:
        """Raises a DataError for the first test prompt that leaves no room for its answer."""
        room = self.checkpoint.config.max_positions - self.config.eval.max_new_tokens
        check_room(self.encode, self.prompts, room)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer to learn, closed by EOS."""
        return encode_answer(self.tokenizer, text, self.eos_id)

    def text(self, ids: Sequence[int]) -> str:
        """The text of answer ids."""
        return decode(self.tokenizer, ids)

    def answer(
        self,
        texts: Sequence[str],
        max_new: int,
        label: str | None = None,
        scale_LF: Array | None = None,
        on_batch: OnBatch | None = None,
        openings: Sequence[list[int]] | None = None,
        prompts: Sequence[list[int]] | None = None,
        steer_RLD: np.ndarray | None = None,
        vllm_folder: Path | None = None,
    ) -> list[list[int]]:
        """Greedy answers to chat prompts as token ids; a progress bar where `label` is given.

        With `openings`, the model goes on after these first tokens of each answer. `prompts` are
        token ids to answer in place of the texts' own. `steer_RLD`, float32 [texts, layers, width],
        moves the residual stream as in `answer_prompts`.
        `vllm_folder`: vLLM answers from this Hugging Face folder, which has the factors in it.
        """
        prompts = [self.encode(text) for text in texts] if prompts is None else prompts
        if openings is not None:
            prompts = [ids + first for ids, first in zip(prompts, openings, strict=True)]
        start, tokens = time.monotonic(), 0
        with self.progress(label, len(texts), "answers") as advance:

            def done(rows: list[int], answers: list[list[int]]) -> None:
                nonlocal tokens
                if on_batch is not None:
                    on_batch(rows, answers)
                tokens += sum(map(len, answers))
                advance(len(rows), f"{tokens / (time.monotonic() - start):.0f} tokens/s")

            if vllm_folder is not None:
                dtype = self.config.model.dtype
                return vllm_answers(vllm_folder, dtype, prompts, max_new=max_new, on_batch=done)
            return answer_prompts(
                self.lm,
                self.lm.ones_LF if scale_LF is None else scale_LF,
                prompts,
                max_new=max_new,
                batch_size=self.config.eval.batch_size,
                on_batch=done,
                steer_RLD=steer_RLD,
            )

    def say(self, stage: str, text: str) -> None:
        """One line of the screen: the stage at the left, plain words after it."""
        self.console.print(f"{stage:<{LABEL - 1}} {text}", highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, label: str | None, total: int, unit: str) -> Iterator[Callable[..., None]]:
        """advance(n, note="") of a bar that disappears when done; no bar without a label."""
        if label is None:
            yield lambda n=1, note="": None
            return
        columns = (
            TextColumn(f"{label:<{LABEL}}"), BarColumn(24), MofNCompleteColumn(),
            TextColumn(f"{unit}  {{task.fields[note]}}"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        quiet = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=quiet) as bar:
            task = bar.add_task(label, total=total, note="")
            yield lambda n=1, note="": bar.update(task, advance=n, note=note)


def fingerprint(checkpoint: Checkpoint) -> str:
    """sha256 that tells two checkpoints apart without reading all of their weights.

    Covers the configuration, the tokenizer and chat template, and every tensor's name, shape, dtype
    and first 64 KiB: a model tuned by us differs from its source in a few columns of `down_proj`
    only, and those show in its first rows.
    """
    digest = hashlib.sha256(repr(checkpoint.config).encode())
    for name, info in sorted(checkpoint.tensors.items()):
        digest.update(json.dumps([name, list(info.shape), str(info.dtype)]).encode())
        with info.file.open("rb") as file:
            file.seek(info.start)
            digest.update(file.read(min(SAMPLE_BYTES, info.stop - info.start)))
    if checkpoint.directory is None:  # a GGUF file keeps all the rest before its first tensor
        with checkpoint.path.open("rb") as file:
            digest.update(file.read(min(info.start for info in checkpoint.tensors.values())))
    else:
        for path in sorted(checkpoint.directory.iterdir()):
            if path.suffix in (".json", ".jinja", ".model", ".txt") and path.is_file():
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def devices() -> str:
    """The accelerators in words, e.g. "cpu x 1"."""
    found = jax.devices()
    return f"{found[0].device_kind if found[0].platform != 'cpu' else 'cpu'} x {len(found)}"
