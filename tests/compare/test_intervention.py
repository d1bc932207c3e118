"""Interventions in an evaluation: at work in every answer, never silently left out."""

import dataclasses

import numpy as np
import pytest

from nt_jax.checkpoints.tokenizer import encode_chat
from nt_jax.compare.methods.system_prompt import SYSTEM_PROMPTS, encode_under
from nt_jax.config.schema import RunConfig
from nt_jax.data.records import ChoiceQuestion
from nt_jax.errors import ConfigError
from nt_jax.eval import answering
from nt_jax.eval.answer_file import RecordFile
from nt_jax.eval.answering import answer_all, answers_path, choices_path, letters_path
from nt_jax.eval.measure import read_lines
from nt_jax.eval.multiple_choice import ASK, prompt_text
from nt_jax.eval.prompts import TestChoice, TestPrompt, Tests
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.generate.chat import ChatModel
from nt_jax.generate.engine import answer_prompts
from nt_jax.generate.intervention import Prepared
from nt_jax.run.pipeline import chat_model
from tests.compare import small

REQUESTS = ["How do I bake bread?", "Tell me a story about Paris.", "What is rest?"]
PROMPTS = [TestPrompt("demo_direct", str(n), text, text, True) for n, text in enumerate(REQUESTS)]
CHOICES = [
    TestChoice("mmlu", ChoiceQuestion(str(n), text, ("one", "two"), 0, "maths"))
    for n, text in enumerate(REQUESTS)
]


@dataclasses.dataclass
class Shout:
    """Asks in capitals, and steers if told to; remembers what it was asked."""

    model: ChatModel
    steer: float | None = None
    asked: list = dataclasses.field(default_factory=list)

    def prepare(self, lm, scale_LF, prompts, texts):
        assert prompts == [self.model.encode(text) for text in texts]
        assert scale_LF.shape == lm.ones_LF.shape
        self.asked += texts
        steer_RLD = None
        if self.steer is not None:
            shape = (len(texts), lm.config.layers, lm.config.width)
            signs = np.arange(len(texts)) % 2 * 2 - 1  # every row its own way
            steer_RLD = np.ones(shape, np.float32) * self.steer * signs[:, None, None]
            steer_RLD = (steer_RLD * np.linspace(-1, 1, shape[2])).astype(np.float32)
        return Prepared([self.model.encode(text.upper()) for text in texts], steer_RLD)


@pytest.fixture(scope="module")
def config(recipe, tmp_path_factory) -> RunConfig:
    return small.settings(recipe, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def chat(config) -> ChatModel:
    return chat_model(config)


@pytest.mark.parametrize("steer", [None, 3.0])
def test_test_answers_are_those_to_the_rewritten_and_steered_prompts(chat, config, steer, tmp_path):
    shout = Shout(chat, steer)
    model = ModelUnderTest("shout", chat, intervention=shout)
    answer_all(model, Tests(PROMPTS, []), config.eval, tmp_path)
    kept = read_lines(answers_path(tmp_path, "shout"))
    assert [row["prompt"] for row in sorted(kept, key=lambda r: r["id"])] == REQUESTS
    ready = shout.prepare(chat.lm, chat.lm.ones_LF, [*map(chat.encode, REQUESTS)], REQUESTS)
    expected = answer_prompts(
        chat.lm, chat.lm.ones_LF, ready.prompts, max_new=6, batch_size=4,
        steer_RLD=ready.steer_RLD,
    )  # fmt: skip
    said = {row["id"]: row["answer"] for row in kept}
    assert [said[str(n)] for n in range(3)] == [chat.text(ids) for ids in expected]
    plain = chat.answer(REQUESTS, 6)
    assert expected != plain
    if steer is not None:
        unsteered = answer_prompts(chat.lm, chat.lm.ones_LF, ready.prompts, max_new=6, batch_size=4)
        assert expected != unsteered


def test_choice_questions_are_rewritten_and_letters_left_out(chat, config, tmp_path):
    shout = Shout(chat)
    tests = Tests([], CHOICES)
    answer_all(ModelUnderTest("shout", chat, intervention=shout), tests, config.eval, tmp_path)
    assert len(RecordFile(choices_path(tmp_path, "shout")).rows) == len(shout.asked) == 3
    assert not letters_path(tmp_path, "shout").exists()
    answer_all(ModelUnderTest("plain", chat), tests, config.eval, tmp_path)
    assert letters_path(tmp_path, "plain").exists()


class Longer(Shout):
    """Adds as many tokens as an intervention may."""

    def prepare(self, lm, scale_LF, prompts, texts):
        return Prepared([[*ids, *[7] * answering.ADDED_TOKENS] for ids in prompts], None)


@pytest.mark.parametrize("added", [0, 128])
def test_what_an_intervention_may_add_leaves_fewer_worked_examples(
    chat, config, tmp_path, monkeypatch, added
):
    monkeypatch.setattr(answering, "ADDED_TOKENS", added)
    shots = tuple(dataclasses.replace(CHOICES[0].question, id=f"shot{n}") for n in range(40))
    choice = dataclasses.replace(CHOICES[1], shots=shots)
    longer = ModelUnderTest("longer", chat, intervention=Longer(chat))
    answer_all(longer, Tests([], [choice]), config.eval, tmp_path)
    room = chat.checkpoint.config.max_positions - answering.CHOICE_TOKENS - added
    tokens = [len(chat.encode(prompt_text(choice, n, ASK))) for n in range(41)]
    fitting = max(n for n in range(41) if tokens[n] <= room)
    assert fitting < 40  # or the question tells nothing
    (record,) = read_lines(choices_path(tmp_path, "longer"))
    assert record["shots"] == fitting


def test_what_is_answered_already_is_not_prepared_again(chat, config, tmp_path):
    shout = Shout(chat)
    model = ModelUnderTest("shout", chat, intervention=shout)
    answer_all(model, Tests(PROMPTS[:2], []), config.eval, tmp_path)
    answer_all(model, Tests(PROMPTS, []), config.eval, tmp_path)
    answer_all(model, Tests(PROMPTS, []), config.eval, tmp_path)
    assert sorted(shout.asked) == sorted(REQUESTS)


def test_a_system_prompt_comes_first_or_where_templates_know_none_in_the_message(chat):
    tokenizer, system = chat.tokenizer, SYSTEM_PROMPTS[0]
    text = chat.text(encode_under(tokenizer, system, REQUESTS[0]))
    assert 0 <= text.index(system) < text.index(REQUESTS[0])
    assert encode_under(tokenizer, system, "x") == encode_chat(tokenizer, "x", system)
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
            + template
        )
        ids = encode_under(tokenizer, system, "x")
        assert ids == encode_chat(tokenizer, f"{system}\n\nx")
    finally:
        tokenizer.chat_template = template


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("eval.datasets=[demo_attack]", "a comparison needs a harmful and a harmless set"),
        ("compare.safety_counts=[95]", r"neurons\.safety=95 \+ neurons\.utility=7 is more than"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_work(recipe, tmp_path, word, message):
    config = small.settings(recipe, tmp_path / "run", word)
    with pytest.raises(ConfigError, match=message):
        small.carry_on(config, ("scans",), ("7",))
    assert not (tmp_path / "run").exists()
