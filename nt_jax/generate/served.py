"""A model behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, Ollama) that answers.

Prompts go to /completions as our token ids where the server takes them, so that it answers what
our own engine would be asked; else to /chat/completions as messages, under the server's template.
What the server says it was asked (`usage.prompt_tokens`) is kept beside our count of each prompt.
Protocol: https://platform.openai.com/docs/api-reference, as those servers document it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any, NamedTuple

from nt_jax.console import progress, say
from nt_jax.data.prompts import Message
from nt_jax.errors import DataError, NtError, RunError, SomeFailedError
from nt_jax.generate.decode import GREEDY, Sampling
from nt_jax.generate.http import HINT, KEPT, RefusedError, UnansweredError, send

IDS, CHAT = "completions", "chat/completions"
_OF_THE_PROMPT = frozenset({400, 413, 422})  # statuses about what is asked, not about the server
IN_A_ROW = 8  # failures without an answer between them until the server itself is tried
_TRIED = 16  # tokens of a prompt that a trial asks: any server answers so few
# Draws from the whole distribution and no penalty, as our own engine answers, whatever defaults a
# server or the checkpoint's generation_config.json has. By the names of vLLM, SGLang and llama.cpp.
PLAIN = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1, "repeat_penalty": 1}
_HELLO: list[Message] = [{"role": "user", "content": "Hello"}]


class Question(NamedTuple):
    """One prompt in both forms; `ids` end with the first words of the answer where prefilled."""

    ids: list[int]
    messages: list[Message]
    prefilled: bool = False


class Reply(NamedTuple):
    """An answer, and what the server counted; None where it counts nothing."""

    text: str
    by: str  # IDS or CHAT
    asked: int  # tokens of the prompt by our tokenizer
    prompt_tokens: int | None
    tokens: int  # of the answer; 0 where the server does not say

    @property
    def facts(self) -> dict[str, Any]:
        """What is kept beside an answer."""
        return {"served": {"by": self.by, "prompt_tokens": [self.asked, self.prompt_tokens]}}


@dataclasses.dataclass(frozen=True)
class Server:
    """One model of a server; `url` as clients of OpenAI take it, usually ending in /v1."""

    url: str
    name: str
    together: int = 8  # requests in flight
    _way: list[str] = dataclasses.field(default_factory=list, compare=False, repr=False)
    _takes_plain: list[bool] = dataclasses.field(default_factory=list, compare=False, repr=False)

    def check(self) -> None:
        """Raises a RunError where nothing answers at the address, or the model is not served."""
        try:
            known = [asked_as(model) for model in send(f"{self.url}/models")["data"]]
        except RefusedError:
            return  # not every server lists its models
        except UnansweredError as error:
            raise RunError(f"{error} {KEPT}") from error
        except (KeyError, TypeError, AttributeError):
            raise RunError(f"{self.url}/models is no list of models. {HINT}") from None
        if known and self.name not in known:
            raise RunError(
                f"{self.url} serves {', '.join(known)}, and not '{self.name}'. Set eval.served to "
                "what it serves."
            )

    def answer(
        self,
        questions: Sequence[Question],
        max_new: int,
        label: str | None = None,
        on_reply: Callable[[int, Reply], None] = lambda row, reply: None,
        sampling: Sampling = GREEDY,
        streams: Sequence[int] | None = None,
    ) -> list[Reply]:
        """Replies in the order of `questions`; `on_reply(row, reply)` hears of each as it comes.

        Draws get a seed of their own by `streams`. A prompt that fails does not keep the others
        from being asked: a SomeFailedError at the end says which had no answer, and why. Raises
        another RunError where nobody is there, or the server fails whatever it is asked.
        """
        if not questions:
            return []
        by = self.way(questions[0].ids)
        if by == CHAT and any(question.prefilled for question in questions):
            raise RunError(
                f"{self.url} takes no token ids, so no answer can be begun for it. Leave out test "
                "sets with prefilled answers."
            )
        seeds = range(len(questions)) if streams is None else streams
        with (
            ThreadPoolExecutor(self.together) as pool,
            progress(label, len(questions), "answers") as advance,
        ):
            jobs = {
                pool.submit(self.ask, by, question, max_new, sampling, seed): row
                for row, (question, seed) in enumerate(zip(questions, seeds, strict=True))
            }

            def hear(row: int, reply: Reply) -> None:
                on_reply(row, reply)
                advance(1)

            try:
                try_server = partial(self._still_there, by, questions[0])
                replies, failed = _collect(jobs, hear, try_server)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        if failed:
            raise SomeFailedError(failed)
        return [replies[row] for row in range(len(questions))]

    def way(self, ids: Sequence[int]) -> str:
        """IDS where the server reads a list of numbers as tokens, else CHAT; tried out once."""
        if not self._way:
            self._way.append(IDS if self._takes(ids) else CHAT)
        return self._way[0]

    def ask(
        self, by: str, question: Question, max_new: int, sampling: Sampling, seed: int
    ) -> Reply:
        """One reply.

        Raises a DataError where the server does not take the prompt, an UnansweredError where it
        fails on it, and another RunError where it would do so with every prompt.
        """
        asked = {"prompt": question.ids} if by == IDS else {"messages": question.messages}
        drawn = {"seed": (sampling.seed + seed) % 2**31} if sampling.temperature else {}
        body = {"model": self.name, "max_tokens": max_new, "temperature": sampling.temperature}
        try:
            reply = self._post(by, body | drawn | asked)
        except RefusedError as error:
            kind = UnansweredError if error.code >= 500 else RunError
            kind = DataError if error.code in _OF_THE_PROMPT else kind
            raise kind(f"{self.url}/{by} refused a prompt ({error}).") from None
        try:
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            text = choice["text"] if by == IDS else choice["message"].get("content") or ""
            counted = usage.get("prompt_tokens")
            counted = None if counted is None else int(counted)
            tokens = int(usage.get("completion_tokens") or 0)
            if not isinstance(text, str):
                raise TypeError("its text is none")
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UnansweredError(f"{self.url}/{by} gave no answer ({error!r}). {HINT}") from None
        # Half a pair of UTF-16, which no file can hold, as tokenizers write what is no text.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return Reply(text, by, len(question.ids), counted, tokens)

    def _still_there(self, by: str, question: Question) -> None:
        """Raises a RunError where the server does not answer the shortest question either."""
        short = Question(question.ids[:_TRIED], _HELLO)
        try:
            self.ask(by, short, 1, GREEDY, 0)
        except NtError as error:
            raise RunError(f"the server fails whatever it is asked: {error} {KEPT}") from error

    def _post(self, by: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to what is asked under PLAIN, or without it where that is what is refused.

        Which it is shows once, with the first reply.
        """
        address = f"{self.url}/{by}"
        if self._takes_plain == [False]:
            return send(address, body)
        try:
            reply, taken = send(address, {**body, **PLAIN}), True
        except RefusedError as error:
            if self._takes_plain == [True] or error.code not in _OF_THE_PROMPT:
                raise
            reply, taken = send(address, body), False
        if not self._takes_plain:
            self._takes_plain.append(taken)
            if not taken:
                say("served", f"takes no {', '.join(PLAIN)}: answers are drawn by its own settings")
        return reply

    def _takes(self, ids: Sequence[int]) -> bool:
        ids = ids[:_TRIED]
        body = {"model": self.name, "max_tokens": 1, "temperature": 0, "prompt": [*ids]}
        try:
            reply = self._post(IDS, body)
            counted = int(reply["usage"]["prompt_tokens"])
        except (RefusedError, KeyError, TypeError, ValueError, OverflowError):
            return False
        except UnansweredError as error:
            raise RunError(f"{error} {KEPT}") from error
        # One more is a BOS of the server's own; numbers read as text would be several times more.
        return "choices" in reply and abs(counted - len(ids)) <= 1


def _collect(
    jobs: Mapping[Future[Reply], int],
    hear: Callable[[int, Reply], None],
    try_server: Callable[[], None],
) -> tuple[dict[int, Reply], dict[int, NtError]]:
    """(replies, what was wrong with prompts that have none), by row, once all jobs are done.

    `hear` gets each reply as it comes. `try_server` raises where so many failures are the server's.
    """
    replies: dict[int, Reply] = {}
    failed: dict[int, NtError] = {}
    in_a_row = 0
    for job in as_completed(jobs):
        row = jobs[job]
        try:
            replies[row], in_a_row = job.result(), 0
        except (DataError, UnansweredError) as error:
            failed[row], in_a_row = error, in_a_row + 1
            if in_a_row % IN_A_ROW == 0:
                try_server()
            continue
        hear(row, replies[row])
    if failed and not replies:
        try_server()
    return replies, failed


def asked_as(model: Mapping[str, Any]) -> str:
    """The name by which a model of a server's list answers.

    SGLang lists an adapter by its name, but applies it only where it is asked for as BASE:NAME;
    by its name alone the base answers, without a word.
    """
    behind = model.get("parent") if model.get("owned_by") == "sglang" else None
    return f"{behind}:{model['id']}" if behind else str(model["id"])


def differing_counts(answers: Sequence[dict[str, Any]]) -> str | None:
    """What to say of served answers whose prompts the server counted otherwise; None if of none."""
    counts = [row["served"]["prompt_tokens"] for row in answers if "served" in row]
    silent = sum(theirs is None for _, theirs in counts)
    apart = [(ours, theirs) for ours, theirs in counts if theirs not in (None, ours)]
    said = []
    if apart:
        ours, theirs = max(apart, key=lambda pair: abs(pair[1] - pair[0]))
        said.append(
            f"the server counts other prompt tokens than we do in {len(apart)} of {len(counts)} "
            f"prompts, at most {theirs} for {ours}: another template or tokenizer, or cut prompts"
        )
    if silent:
        said.append(f"the server does not say how many prompt tokens it saw ({silent} prompts)")
    return "; ".join(said) or None
