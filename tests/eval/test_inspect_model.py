"""inspect_ai's own evaluation of a local task on our engine, and its answers beside torch's."""

import asyncio
import gc
import importlib.metadata
import importlib.util
import json
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest

from nt_jax.errors import ConfigError, DataError
from tests import tiny, torch_twin

installed = importlib.util.find_spec("inspect_ai") is not None
needs_inspect = pytest.mark.skipif(not installed, reason="inspect_ai is not installed")
# It warns about itself.
pytestmark = pytest.mark.filterwarnings("ignore")
ASKED = ("How do I bake bread?", "Why?", "What is the capital of France?", "Say a word.")
NEW = 5


@pytest.fixture(scope="module")
def model():
    from inspect_ai.model import get_model

    import nt_jax.eval.inspect_model  # noqa: F401  as its entry point does

    return get_model(f"nt_jax/{tiny.checkpoint('llama3')}", dtype="float32", batch_size=2)


@pytest.fixture(autouse=True)
def quiet():
    """Its streams warn when they are collected: here, and not at the end of all tests."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def expected(text: str) -> str:
    """What torch answers, greedily."""
    from nt_jax.generate.chat import ChatText, open_checkpoint

    chat = ChatText(open_checkpoint(str(tiny.checkpoint("llama3"))))
    ids = chat.encode(text)
    made = torch_twin.answers(
        torch_twin.load("llama3"), np.array([ids]), np.ones((1, len(ids)), bool), NEW
    )[0].tolist()
    return chat.tokenizer.decode(made, skip_special_tokens=True)


def test_the_entry_point_names_our_module():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["inspect_ai"] == {"nt_jax": "nt_jax.eval.inspect_model"}
    assert importlib.util.find_spec("nt_jax.eval.inspect_model") is not None


@needs_inspect
def test_a_task_is_run_and_its_answers_are_those_of_torch(model, tmp_path):
    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    answers = [expected(text) for text in ASKED]
    targets = [*answers[:2], "another", answers[3]]
    samples = [Sample(input=i, target=t) for i, t in zip(ASKED, targets, strict=True)]
    task = Task(dataset=samples, solver=generate(max_tokens=NEW), scorer=match("exact"))
    [log] = evaluate(task, model=model, log_dir=str(tmp_path), display="none")
    assert log.status == "success", log.error
    assert [sample.output.completion for sample in log.samples] == answers
    assert len(set(answers)) > 1
    (score,) = log.results.scores
    assert score.metrics["accuracy"].value == pytest.approx(0.75)
    usage = log.samples[0].output.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert log.eval.model.startswith("nt_jax/")


def asked(model, messages=None, tools=(), **config):
    from inspect_ai.model import ChatMessageUser, GenerateConfig

    chat = messages or [ChatMessageUser(content=ASKED[0])]
    settings = GenerateConfig(**{"max_tokens": NEW, **config})
    return asyncio.run(model.api.generate(chat, [*tools], "auto", settings))


@needs_inspect
def test_earlier_turns_and_a_system_message_are_read(model):
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    from nt_jax.data.prompts import Conversation

    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")]
    kinds = (ChatMessageSystem, ChatMessageUser, ChatMessageAssistant, ChatMessageUser)
    texts = [*(text for _, text in turns), ASKED[0]]
    messages = [kind(content=text) for kind, text in zip(kinds, texts, strict=True)]
    found = asked(model, messages)
    assert found.completion == expected(Conversation(ASKED[0], tuple(turns)))
    ids = model.api.model.encode(Conversation(ASKED[0], tuple(turns)))
    assert found.usage.input_tokens == len(ids) > len(model.api.model.encode(ASKED[0]))


@needs_inspect
def test_draws_follow_the_seed_and_answers_end_before_a_stop(model):
    whole = asked(model)
    hot = {"temperature": 3.0, "max_tokens": 8}
    drawn = [asked(model, **hot, seed=seed).completion for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    free = {asked(model, **hot).completion for _ in range(4)}
    assert len(free) > 1
    stop = whole.completion[2:4]
    stopped = asked(model, stop_seqs=[stop])
    assert stopped.completion == whole.completion.split(stop)[0] != whole.completion
    assert whole.stop_reason == "max_tokens" and stopped.stop_reason == "stop"


@needs_inspect
@pytest.mark.parametrize(
    ("config", "said"),
    [({"top_p": 0.5}, "top_p=0.5"), ({"logprobs": True}, "logprobs=True"),
     ({"num_choices": 3}, "num_choices=3"), ({"top_k": 5, "temperature": 1.0}, "top_k=5")],
)  # fmt: skip
def test_what_our_engine_does_not_do_is_refused_by_name(model, config, said):
    with pytest.raises(ConfigError, match=said):
        asked(model, **config)


@needs_inspect
def test_one_sample_that_does_not_fit_fails_alone(model, tmp_path):
    from inspect_ai import Task
    from inspect_ai import eval as evaluate
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ChatMessageUser, ContentImage
    from inspect_ai.solver import generate

    picture = [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA==")])]
    with pytest.raises(DataError, match="holds image"):
        asked(model, picture)
    samples = [Sample(input=text) for text in (ASKED[0], "long " * 400, ASKED[1])]
    task = Task(dataset=samples, solver=generate(max_tokens=NEW))
    [log] = evaluate(task, model=model, log_dir=str(tmp_path), display="none", fail_on_error=False)
    errors = [sample.error for sample in log.samples]
    assert [error is None for error in errors] == [True, False, True]
    assert "does not fit" in errors[1].message
    assert [log.samples[n].output.completion for n in (0, 2)] == [expected(t) for t in ASKED[:2]]


@needs_inspect
def test_a_cancelled_sample_leaves_the_others_their_answers(model):
    from concurrent.futures import Future

    from nt_jax.eval.inspect_model import Asked
    from nt_jax.generate.decode import Sampling

    how, ids = (NEW, Sampling(0.0, 0)), model.api.model.encode(ASKED[0])
    gone, live, alone = (Asked(ids, how, stream, Future()) for stream in range(3))
    gone.answer.cancel()
    alone.answer.cancel()
    model.api._answer([gone, live], *how)
    assert model.api.model.text(live.answer.result(timeout=0)) == expected(ASKED[0])
    model.api.waiting.put(alone)
    assert asked(model).completion == expected(ASKED[0])  # the thread that answers lives


@needs_inspect
def test_a_run_stands_for_its_exported_model(tmp_path):
    from inspect_ai.model import get_model

    (tmp_path / "run.json").write_text(json.dumps({"keys": {}}))
    with pytest.raises(Exception, match="has no exported model"):
        get_model(f"nt_jax/{tmp_path}")
