"""The evaluation as a library call: a model's numbers, alone and beside its factors."""

import dataclasses
import json

import numpy as np
import pytest

from nt_jax.config.evaluation import EvalConfig
from nt_jax.config.test_sets import TestSet
from nt_jax.errors import DataError, RunError
from nt_jax.eval.answering import CHOICE_TOKENS, choice_tokens
from nt_jax.eval.evaluate import evaluate
from nt_jax.eval.judges.judge import without_thinking
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from nt_jax.eval.metrics.result import answer_ids, find
from nt_jax.generate.chat import ChatModel, open_model
from nt_jax.models.neurons import Factors, NeuronSet
from tests import tiny

SETS = ("demo_attack", "demo_harmless")
FEW = {"limit": 2, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> ChatModel:
    """A tiny chat model with room for the demo's prompts (about one token a character)."""
    folder = tiny.copy("smollm2", tmp_path_factory.mktemp("models") / "tiny")
    tiny.edit_json(folder / "config.json", max_position_embeddings=1024)
    return open_model(str(folder))


def factors(value: float) -> Factors:
    chosen = NeuronSet(np.array([0, 1]), np.array([3, 5]), np.array([True, False]))
    return Factors(chosen, np.full(2, value, np.float32))


def test_factors_of_one_change_no_number(model):
    rows = evaluate(model, SETS, factors=factors(1.0), **FEW)
    base = [row for row in rows if row.model == "base"]
    metrics = {(row.dataset, row.metric) for row in base}
    assert {("demo_harmless", "perplexity"), ("demo_attack", "refusal_rate")} <= metrics
    for row in base:
        same = find(rows, row.dataset, row.metric, "tuned")
        assert dataclasses.replace(same, model="base") == row
    assert find(rows, "demo_harmless", "kl", "tuned").value == pytest.approx(0, abs=1e-5)
    assert find(rows, "demo_attack", "mcnemar_p", "tuned").value == 1.0


def test_other_factors_are_measured_beside_the_same_base(model):
    alone = evaluate(model, SETS, **FEW)
    assert {row.model for row in alone} == {"base"}
    rows = evaluate(model, SETS, factors=factors(50.0), **FEW)
    assert [row for row in rows if row.model == "base"] == alone
    assert find(rows, "demo_harmless", "kl", "tuned").value > 1e-4


def test_a_set_and_a_judge_of_ones_own(model, tmp_path):
    class AllRefuse:
        name, sha256 = "all-refuse", "d" * 64

        def verdicts(self, requests, answers):
            assert [*requests] == ["Name a flower."]
            return [1.0] * len(answers)

    (tmp_path / "own.jsonl").write_text('{"request": "Name a flower."}\n')
    own = {"flowers": TestSet(source=str(tmp_path / "own.jsonl"), kind="harmless")}
    row = find(evaluate(model, own, judge=AllRefuse(), **FEW), "flowers", "refusal_rate", "base")
    assert (row.value, row.n, row.judge, row.judge_sha256) == (1.0, 1, "all-refuse", "d" * 64)
    row = find(evaluate(model, own, **FEW), "flowers", "refusal_rate", "base")
    assert (row.value, row.judge) == (0.0, PhraseJudge.name)


def test_what_cannot_be_measured_is_said_before_any_answer(model):
    with pytest.raises(DataError, match="leaves 0 beside its answer"):
        evaluate(model, SETS, limit=1, max_new_tokens=1024)

    class Broken(PhraseJudge):
        def verdicts(self, requests, answers):
            raise DataError("out of order")

    with pytest.raises(RunError, match=r"the judge 'phrases-v2' failed: out of order"):
        evaluate(model, SETS, judge=Broken(), **FEW)


def test_a_judge_that_fails_promises_no_answers_that_go_with_the_call(model):
    class Broken:
        name, sha256 = "broken", "e" * 64

        def verdicts(self, requests, answers):
            raise DataError("no verdict")

    with pytest.raises(RunError, match="the judge 'broken' failed: no verdict") as caught:
        evaluate(model, "demo_attack", judge=Broken(), likelihoods=False, **FEW)
    assert "kept" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "left"), [("I cannot. Or can I?", ""), ("I can.</think>I cannot.", "I cannot.")]
)
def test_reasoning_that_the_template_opens_and_nothing_closes_is_no_answer(
    tmp_path, monkeypatch, written, left
):
    folder = tiny.copy("smollm2", tmp_path / "tiny")
    template = "{{ messages[0].content }} Reply: <think>\n"
    tiny.edit_json(folder / "tokenizer_config.json", chat_template=template)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    reasons = open_model(str(folder))
    monkeypatch.setattr(ChatModel, "text", lambda self, ids: written)
    assert without_thinking(reasons.answer_text([5])) == left
    assert choice_tokens(reasons, EvalConfig(max_new_tokens=400)) == 400


def test_the_tag_that_the_prompt_ends_with_is_no_part_of_what_is_scored(tmp_path):
    folder = tiny.copy("smollm2", tmp_path / "tiny")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }} Reply: <think>\n")
    reasons, plain = open_model(str(folder)), open_model(str(tiny.checkpoint("smollm2")))
    ids = reasons.opening("So it is Paris.")
    row = {"prompt": "Why?", "answer": reasons.answer_text(ids)}
    assert answer_ids(reasons, row) == ids != reasons.opening(row["answer"])
    assert answer_ids(plain, row) == plain.opening(row["answer"])  # another scorer opens nothing


def test_a_template_that_opens_no_reasoning_adds_nothing(model):
    assert model.answer_text([70]) == model.text([70])
    assert choice_tokens(model, EvalConfig(max_new_tokens=400)) == CHOICE_TOKENS


def test_letters_are_scored_without_a_chat_template(tmp_path):
    folder = tiny.copy("smollm2", tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    rows = tmp_path / "rows.jsonl"
    asked = {"question": "One and one?", "choices": ["one", "two"], "answer": 1}
    rows.write_text(json.dumps(asked) + "\n")
    letters = TestSet(source=str(rows), kind="choice", metrics=("letter",))
    found = evaluate(open_model(str(folder)), {"sums": letters})
    assert find(found, "sums", "letter_accuracy", "base").n == 1
