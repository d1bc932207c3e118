"""Our models as inspect_ai sees them (extra `inspect`): `inspect eval TASK --model nt_jax/SOURCE`.

SOURCE: a run directory, which stands for its exported model, or what `nt.load_model` takes.
inspect_ai asks for one answer at a time; those that are waiting are answered together.
"""

import asyncio
import itertools
import queue
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
    ChatMessage,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo  # pyright: ignore[reportMissingImports]

from nt_jax.data.prompts import read_messages
from nt_jax.errors import ConfigError, DataError
from nt_jax.finished import model_source
from nt_jax.generate.chat import BATCH, open_model
from nt_jax.generate.decode import Sampling
from nt_jax.generate.engine import check_lengths
from nt_jax.mesh import make_mesh

NEW_TOKENS = 512  # of an answer, where the task says nothing
# What a task may ask for beside temperature, seed, max_tokens and stop_seqs, if it is one of these.
PLAIN = {
    "top_p": (1.0,), "top_k": (0, -1), "num_choices": (1,), "best_of": (1,), "logprobs": (False,),
    "frequency_penalty": (0.0,), "presence_penalty": (0.0,), "logit_bias": (), "top_logprobs": (),
    "response_schema": (), "prompt_logprobs": (),
}  # fmt: skip


@dataclass
class Asked:
    """One prompt that waits for its answer."""

    ids: list[int]
    how: tuple[int, Sampling]  # new tokens, how they are picked
    stream: int  # of draws
    answer: "Future[list[int]]"


@modelapi(name="nt_jax")
class InspectModel(ModelAPI):
    """A model of ours as inspect_ai sees it: chats in, texts out, greedy unless told otherwise."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: Any = None,
        dtype: str = "auto",
        batch_size: int = BATCH,
        data: int = 1,
        ways: int = 1,
        thinking: bool = False,
    ):
        """`dtype` and the rest by `-M NAME=VALUE`; the mesh is data x ways."""
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        mesh, source = make_mesh(data, ways), model_source(model_name)
        self.model = open_model(source, dtype, mesh, batch_size=batch_size, thinking=thinking)
        self.waiting: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        self.drawn = itertools.count()
        threading.Thread(target=self._answer_all, daemon=True, name="nt_jax answers").start()

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: Any,
    ) -> ModelOutput:
        """The answer to one chat; a DataError or ConfigError fails that sample alone."""
        check_wanted(tools, config)
        room = self.model.checkpoint.config.max_positions
        ids, new = self.model.encode(prompt_of_chat(input)), config.max_tokens or NEW_TOKENS
        new = max(1, min(new, room - len(ids)))
        check_lengths(room, [ids], new)
        how = (new, Sampling(config.temperature or 0.0, config.seed or 0))
        asked = Asked(ids, how, self._stream(ids, config.seed), Future())
        self.waiting.put(asked)
        answer = await asyncio.wrap_future(asked.answer)
        text, full = self.model.text(answer), len(answer) >= new
        cut = min((n for stop in config.stop_seqs or () if (n := text.find(stop)) >= 0), default=-1)
        said = text if cut < 0 else text[:cut]
        ended = "max_tokens" if full and cut < 0 else "stop"
        output = ModelOutput.from_content(self.model_name, said, stop_reason=ended)
        output.usage = ModelUsage(
            input_tokens=len(ids), output_tokens=len(answer), total_tokens=len(ids) + len(answer)
        )
        return output

    def max_tokens(self) -> int:
        """New tokens of an answer, where the task says nothing."""
        return NEW_TOKENS

    def max_connections(self) -> int:
        """How many chats inspect_ai asks for at a time: two batches, one of which waits."""
        return 2 * self.model.batch_size

    def _stream(self, ids: list[int], seed: int | None) -> int:
        """With a seed the prompt's own, whatever it is answered beside; else a new one."""
        return next(self.drawn) if seed is None else zlib.crc32(repr(ids).encode()) >> 1

    def _answer_all(self) -> None:
        """Answer what waits, together where it is asked in the same way, for as long as we live."""
        while True:
            some = [self.waiting.get()]
            while not self.waiting.empty():
                some.append(self.waiting.get())
            for how in dict.fromkeys(asked.how for asked in some):
                self._answer([asked for asked in some if asked.how == how], *how)

    def _answer(self, some: Sequence[Asked], new: int, sampling: Sampling) -> None:
        # A cancelled sample takes no answer; of the others none can be cancelled from here on.
        some = [asked for asked in some if asked.answer.set_running_or_notify_cancel()]
        if not some:
            return
        try:
            found = self.model.answer(
                [""] * len(some), new, prompts=[asked.ids for asked in some],
                sampling=sampling, streams=[asked.stream for asked in some],
            )  # fmt: skip
        except BaseException as error:  # whoever asked is told
            for asked in some:
                asked.answer.set_exception(error)
            return
        for asked, ids in zip(some, found, strict=True):
            asked.answer.set_result(ids)


def prompt_of_chat(messages: Sequence[ChatMessage]) -> Any:
    """The chat as a prompt of ours. Raises a DataError for images, tools and the like."""
    rows = []
    for message in messages:
        parts = [] if isinstance(message.content, str) else message.content
        if others := sorted({part.type for part in parts} - {"text", "reasoning"}):
            raise DataError(f"the task's chat holds {', '.join(others)}; text alone is answered")
        rows.append({"role": message.role, "content": message.text})
    try:
        return read_messages(rows)
    except ValueError as error:
        raise DataError(f"the task's chat {error}") from error


def check_wanted(tools: Sequence[ToolInfo], config: Any) -> None:
    """Raises a ConfigError for what our engine does not do."""
    wanted = {name: getattr(config, name, None) for name in PLAIN}
    wrong = [
        f"{name}={value}"
        for name, value in wanted.items()
        if value is not None and value not in PLAIN[name]
    ]
    wrong += [f"tool {tool.name}" for tool in tools]
    if wrong:
        raise ConfigError(
            f"the task wants {', '.join(wrong)}, which our engine does not do: it answers one chat "
            "in text, greedily or drawn from the whole softmax. Serve an export instead "
            "(docs/serving.md)."
        )
