"""Two models of one set of weights: all factors 1, and those of a run; asked the same."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array

from nt_jax.data.prompts import Conversation, Prompt
from nt_jax.errors import ConfigError
from nt_jax.eval.judges.judge import Judge, open_judge
from nt_jax.eval.judges.verdicts import WHY
from nt_jax.eval.metrics.result import BASE, TUNED
from nt_jax.generate import decode
from nt_jax.generate.chat import ChatModel
from nt_jax.generate.stream import stream
from nt_jax.run.export import run_factors
from nt_jax.run.model import chat_model


@dataclasses.dataclass(frozen=True)
class Sides:
    """The weights, the factors of each side float32 [L, F], who judges, tokens of an answer."""

    model: ChatModel
    scale_LF: Mapping[str, Array]
    judge: Judge
    max_new: int

    def answers(self, prompts: Mapping[str, Prompt]) -> Iterator[dict[str, list[int]]]:
        """What each side has answered so far, as token ids; last both whole answers.

        They are decoded in turns, so that both can be read as they come.
        """
        lm, so_far = self.model.lm, {name: [] for name in prompts}
        shared = decode.stacks_of(lm, lm.ones_LF)
        coming = [
            stream(
                lm, self.scale_LF[name], self.model.encode(prompt), max_new=self.max_new,
                blocks=decode.rescaled(lm, shared, self.scale_LF[name]),
            )
            for name, prompt in prompts.items()
        ]  # fmt: skip
        for both in itertools.zip_longest(*coming):
            new = zip(prompts, both, strict=True)
            so_far |= {name: ids for name, ids in new if ids is not None}
            yield dict(so_far)

    def verdict(self, request: str, ids: Sequence[int]) -> dict[str, Any]:
        """Key refused (1, 0.5, 0) and, of a judge that explains itself, class, reason and span.

        The span is that of `model.text(ids)`; judged is the answer behind reasoning that the
        prompt opened.
        """
        answer, before = self.model.answer_text(ids), len(self.model.chat.opened)
        (refused,) = self.judge.verdicts([request], [answer])
        told: dict[str, Any] = {"refused": float(refused)}
        if hasattr(self.judge, "explain"):
            (why,) = self.judge.explain([request], [answer])  # type: ignore[attr-defined]
            span = [max(0, place - before) for place in (why.start, why.end)]
            told |= dict(zip(WHY, (why.kind, why.reason, span), strict=True))
        return told


def open_sides(
    run_dir: Path,
    strength: float | None,
    system: str | None,
    max_new: int | None,
    model: ChatModel | None = None,
) -> Sides:
    """Both sides of a run, asked under `system` ("": none), else under its eval.system_prompt.

    `model`: that of a run whose sides were opened before, whose weights are then not read again.
    Raises a RunError where the folder is no run or has no factors.
    """
    config, factors = run_factors(run_dir, strength)
    system = config.eval.system_prompt if system is None else system
    model = (model or chat_model(config, anywhere=True)).under(system or None)
    size = model.checkpoint.config
    new = max_new or config.eval.max_new_tokens
    if new >= size.max_positions:
        raise ConfigError(
            f"--max-new {new} (command line): the model's context has {size.max_positions} tokens "
            "for a prompt and its answer. Ask for fewer."
        )
    tuned_LF = jnp.asarray(factors.scale_LF(size.layers, size.neurons))
    scales = {BASE: jnp.ones_like(tuned_LF), TUNED: tuned_LF}
    return Sides(model, scales, open_judge(config.eval.judge), new)


@dataclasses.dataclass
class Talk:
    """A conversation with both sides, each of which remembers its own answers."""

    before: dict[str, tuple[tuple[str, str], ...]]

    @classmethod
    def new(cls) -> "Talk":
        """Nothing said yet."""
        return cls({BASE: (), TUNED: ()})

    def prompts(self, text: str) -> dict[str, Prompt]:
        """What each side is asked when the user says `text`."""
        return {
            name: Conversation(text, turns) if turns else text
            for name, turns in self.before.items()
        }

    def keep(self, text: str, answers: Mapping[str, str]) -> None:
        """Remember a turn."""
        for name, answer in answers.items():
            self.before[name] += (("user", text), ("assistant", answer))
