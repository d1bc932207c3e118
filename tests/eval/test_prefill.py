"""Answers that are made to begin with given words: what follows is judged, the words are kept."""

import dataclasses

import numpy as np
import pytest
from pydantic import ValidationError

from nt_jax.config.evaluation import EvalConfig
from nt_jax.config.test_sets import TestSet
from nt_jax.errors import DataError
from nt_jax.eval.answering import answer_all, answers_path, check_tests
from nt_jax.eval.measure import read_lines
from nt_jax.eval.metrics import perplexity
from nt_jax.eval.prompts import TestPrompt, Tests, set_prompts
from nt_jax.eval.prompts import tests_hash as hash_of
from nt_jax.eval.under_test import ModelUnderTest, Scoring
from nt_jax.generate.chat import load_model
from nt_jax.generate.likelihood import answer_nll
from tests import tiny, torch_twin

SURE = "Sure, here is"
REQUESTS = ["How do I bake bread?", "Tell me a story about Paris.", "What is rest?"]
PROMPTS = [
    TestPrompt("mine", str(n), text, text, n > 0, prefill=SURE if n else "")
    for n, text in enumerate(REQUESTS)
]
CONFIG = EvalConfig(
    extra={"mine": TestSet(source="x", kind="harmless")}, datasets=("mine",), max_new_tokens=6
)


@pytest.fixture(scope="module")
def model():
    return load_model(str(tiny.checkpoint("smollm2")))


def test_what_follows_the_words_is_the_answer(model, tmp_path):
    answer_all(ModelUnderTest("base", model), Tests(PROMPTS, []), CONFIG, tmp_path)
    rows = read_lines(answers_path(tmp_path, "base"))
    twin = torch_twin.load("smollm2")
    for row, prompt in zip(sorted(rows, key=lambda row: row["id"]), PROMPTS, strict=True):
        ids = model.encode(prompt.prompt)
        ids += model.tokenizer.encode(SURE, add_special_tokens=False) if prompt.prefill else []
        token_BT = np.array([ids])
        (new,) = torch_twin.answers(twin, token_BT, np.ones_like(token_BT), 6).tolist()
        cut = new.index(2) if 2 in new else len(new)
        assert row["answer"] == model.text(new[:cut]) and SURE not in row["answer"]
        assert row.get("prefill", "") == prompt.prefill


def test_perplexity_reads_an_answer_behind_the_words_that_it_went_on_from(model):
    answer = PROMPTS[1].record() | {"model": "base", "answer": "the capital of France"}
    asked = Scoring([answer], ModelUnderTest("base", model), [answer], [], model, CONFIG)
    found, _ = perplexity.score(asked)
    encode = lambda text: model.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    prompt = [*model.encode(REQUESTS[1]), *encode(SURE)]
    lm = model.lm
    expected = answer_nll(lm, lm.ones_LF, [prompt], [encode(answer["answer"])], batch_size=1)
    np.testing.assert_allclose(found["mine"]["base"], expected, rtol=1e-5)


def test_sets_without_a_prefill_are_asked_and_hashed_as_before():
    bare = dataclasses.replace(PROMPTS[1], prefill="")
    assert "prefill" not in bare.record() and PROMPTS[1].record()["prefill"] == SURE
    hashes = {hash_of(Tests([prompt], []), CONFIG) for prompt in (bare, PROMPTS[1])}
    assert len(hashes) == 2
    demo = set_prompts("demo_prefilled", EvalConfig().test_set("demo_prefilled"))
    direct = set_prompts("demo_direct", EvalConfig().test_set("demo_direct"))
    assert [row.prompt for row in demo] == [row.prompt for row in direct]
    assert {row.prefill for row in demo} == {SURE} and {row.prefill for row in direct} == {""}


def test_the_words_need_room_and_no_choice_question_has_any(model):
    room = 128 - 6 - len(model.encode(REQUESTS[1]))
    fits = dataclasses.replace(PROMPTS[1], prefill="a" * (room // 2))
    long = dataclasses.replace(PROMPTS[1], prefill="a, " * room)
    check_tests(model, Tests([fits], []), CONFIG)
    with pytest.raises(DataError, match="leaves 122 beside its answer"):
        check_tests(model, Tests([long], []), CONFIG)
    with pytest.raises(ValidationError, match="has a prefill"):
        TestSet(source="x", kind="choice", prefill=SURE)
