"""The model under test, and what a metric gets that asks a model about answers."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array

from nt_jax.checkpoints.adapter import CONFIG as ADAPTER_CONFIG
from nt_jax.checkpoints.adapter import merged_adapter, open_adapter
from nt_jax.checkpoints.factors import load_factors
from nt_jax.config.evaluation import EvalConfig
from nt_jax.data.prompts import Prompt, messages_under
from nt_jax.eval.metrics.result import TUNED, Answer
from nt_jax.generate.chat import ChatModel
from nt_jax.generate.decode import GREEDY, Sampling
from nt_jax.generate.engine import OnBatch
from nt_jax.generate.intervention import Intervention
from nt_jax.generate.served import Question, Reply, Server
from nt_jax.models.neurons import Factors

NO_LETTERS = (
    "letter likelihoods are read after plain text, where a method that acts on chat messages alone "
    "does nothing"
)
SERVED = "a server gives no likelihoods of its model, and those of local weights are not its own"
# (numbers of the prompts, their answers, what else is to be kept beside each, tokens of all)
OnTexts = Callable[[list[int], list[str], list[dict[str, Any]], int], None]


@dataclasses.dataclass(frozen=True)
class ModelUnderTest:
    """A model, the name its rows carry, and its factors.

    `intervention` is what acts on each request beside the weights: it may rewrite the prompt and
    steer the residual stream. `edits_weights` says that the model's weights are changed as well, so
    that letters after plain text are the method's own. Where there is a `server`, it answers;
    `model` then stands for its tokenizer and template alone.
    """

    name: str
    model: ChatModel
    scale_LF: Array | None = None  # float32 [L, F]; None: all 1
    intervention: Intervention | None = None
    edits_weights: bool = False
    server: Server | None = None

    @property
    def no_letters(self) -> str | None:
        """Why letter likelihoods say nothing about it; None where they do."""
        if self.server is not None:
            return SERVED
        return None if self.intervention is None or self.edits_weights else NO_LETTERS

    @property
    def factors_LF(self) -> Array:
        """The factors in use, all 1 for an untouched model."""
        return self.model.lm.ones_LF if self.scale_LF is None else self.scale_LF

    def answer(
        self,
        asked: Sequence[Prompt],
        max_new: int,
        label: str | None = None,
        on_batch: OnBatch | None = None,
        openings: Sequence[list[int]] | None = None,
        sampling: Sampling = GREEDY,
        streams: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Answers as token ids, greedy unless told, the intervention at work; a bar where labelled.

        They go on after `openings`; an intervention sees the prompts alone.
        """
        label = f"{self.name} {label}" if label else None
        changed = {}
        if self.intervention is not None and asked:
            prompts = [self.model.encode(prompt) for prompt in asked]
            ready = self.intervention.prepare(self.model.lm, self.factors_LF, prompts, asked)
            changed = {"prompts": ready.prompts, "steer_RLD": ready.steer_RLD}
        return self.model.answer(
            asked, max_new, label, scale_LF=self.scale_LF, on_batch=on_batch, openings=openings,
            sampling=sampling, streams=streams, **changed,
        )  # fmt: skip

    def answer_texts(
        self,
        asked: Sequence[Prompt],
        max_new: int,
        label: str,
        on_texts: OnTexts,
        openings: Sequence[list[int]] | None = None,
        sampling: Sampling = GREEDY,
        streams: Sequence[int] | None = None,
    ) -> None:
        """`answer` as texts, which `on_texts` hears of; here or by the server."""
        if self.server is None:

            def keep(rows: list[int], ids: list[list[int]]) -> None:
                texts = [*map(self.model.answer_text, ids)]
                on_texts(rows, texts, [{}] * len(rows), sum(map(len, ids)))

            self.answer(asked, max_new, label, keep, openings, sampling, streams)
            return

        def hear(row: int, reply: Reply) -> None:
            on_texts([row], [reply.text], [reply.facts], reply.tokens)

        label = f"{self.name} {label}"
        questions = self._questions(asked, openings or [[]] * len(asked))
        self.server.answer(questions, max_new, label, hear, sampling, streams)

    def _questions(self, asked: Sequence[Prompt], openings: Sequence[list[int]]) -> list[Question]:
        system, encode = self.model.chat.system, self.model.encode
        return [
            Question(encode(prompt) + first, messages_under(prompt, system), bool(first))
            for prompt, first in zip(asked, openings, strict=True)
        ]


def tuned_model(model: ChatModel, factors: Factors, name: str = TUNED) -> ModelUnderTest:
    """The model under test with factors at work."""
    size = model.checkpoint.config
    return ModelUnderTest(name, model, jnp.asarray(factors.scale_LF(size.layers, size.neurons)))


def is_adapter(path: str | None) -> bool:
    """Whether a PEFT adapter lies there, which changes matrices; factors do not."""
    return path is not None and (Path(path) / ADAPTER_CONFIG).is_file()


def adapted_model(model: ChatModel, path: str, name: str) -> ModelUnderTest:
    """The model under test with a PEFT adapter merged into its weights, or factors at work.

    Raises a CheckpointError where there is neither, or it does not fit the model.
    """
    checkpoint = model.checkpoint
    if not is_adapter(path):
        return tuned_model(model, load_factors(path, checkpoint), name)
    adapter = open_adapter(path, checkpoint.config)
    weights = functools.cache(lambda: merged_adapter(model.lm, adapter))
    return ModelUnderTest(name, dataclasses.replace(model, weights=weights))


@dataclasses.dataclass(frozen=True)
class Scoring:
    """What `score` of a metric gets: answers, and the models that may be asked about them."""

    answers: Sequence[Answer]  # of all models under test, with verdicts
    base: ModelUnderTest  # the one that others are compared with
    base_answers: Sequence[Answer]
    others: Sequence[ModelUnderTest]
    scorer: ChatModel | None
    config: EvalConfig

    def measuring(self, metric: str, answers: Sequence[Answer]) -> list[Answer]:
        """The answers with text of their own to test sets that measure `metric`."""
        sets = {answer["dataset"]: self.config.test_set(answer["dataset"]) for answer in answers}
        measured = [answer for answer in answers if sets[answer["dataset"]].measures(metric)]
        chat = self.base.model.chat if measured else None  # letters need no template
        opened = chat.opened if chat else ""  # in answers, but written by the template
        return [answer for answer in measured if answer["answer"].removeprefix(opened)]
