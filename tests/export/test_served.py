"""Served models as an evaluation measures them: llama.cpp's own server, and a made-up one."""

import io
import json

import pytest
from rich.console import Console

from nt_jax import cli
from nt_jax.config.load import load_config
from nt_jax.console import shown_on
from nt_jax.errors import ConfigError, RunError, UnfinishedError
from nt_jax.eval.metrics.result import read_rows
from nt_jax.export import gguf
from nt_jax.export.folder import Wanted
from nt_jax.export.hf import save_model
from nt_jax.generate import chat, http
from nt_jax.generate.chat import open_model
from nt_jax.run.evaluate import evaluate_model
from nt_jax.run.subjects import served_models
from tests import tiny
from tests.export.llama_cpp import Server
from tests.export.test_adapters import factors_of
from tests.generate.openai_twin import Twin

SETTINGS = [
    "eval.datasets=[demo_attack, demo_harmless, sums]", "eval.limit=3", "eval.max_new_tokens=6",
    "eval.batch_size=2", "eval.system_prompt=Be brief.",
]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A tiny tuned model as a folder and as a GGUF file, and a recipe that names the folder."""
    root = tmp_path_factory.mktemp("served")
    source = tiny.copy("smollm2", root / "source")
    tiny.edit_json(source / "config.json", max_position_embeddings=2048)
    model = open_model(str(source), "float32")
    save_model(model, factors_of(), root / "tuned")
    gguf.write(model, factors_of(), root / "gguf", Wanted())
    rows = [
        {"question": f"{n} + 1?", "choices": ["0", str(n + 1)], "answer": 1, "subject": "sums"}
        for n in range(4)
    ]
    (root / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "recipe.yaml").write_text(
        f"model: {{source: {root / 'tuned'}}}\n"
        f"eval: {{extra: {{sums: {{source: {root / 'sums.jsonl'}, kind: choice, seed: 0}}}}}}\n"
    )
    return root


def measured(root, folder, *words, model=None, **more) -> str:
    config = load_config(str(root / "recipe.yaml"), [*SETTINGS, f"run_dir={folder}", *words])
    screen = io.StringIO()
    with shown_on(Console(file=screen, width=150)):
        evaluate_model(config, str(model or root / "tuned"), **more)
    return screen.getvalue()


def served_by(url: str, *names: str) -> list[str]:
    return ["eval.engine=openai", f"eval.url={url}", f"eval.served={json.dumps(names)}"]


def answers(folder, name: str) -> dict:
    rows = (folder / f"answers-{name}" / f"{name}.jsonl").read_text().splitlines()
    return {row["id"]: row["answer"] for row in map(json.loads, rows)}


def test_llama_cpp_answers_the_test_sets_as_we_do(tuned, tmp_path, monkeypatch):
    """From our token ids, float32 throughout; and no local weight is read for it."""
    server = Server(tuned / "gguf" / "model.gguf", context=2048)
    name = server.get("/v1/models")["data"][0]["id"]
    measured(tuned, tmp_path / "here")
    with monkeypatch.context() as patched:
        patched.setattr(chat, "load_weights", None)
        screen = measured(tuned, tmp_path / "there", *served_by(server.url + "/v1", name))
    ours, theirs = answers(tmp_path / "here", "model"), answers(tmp_path / "there", "model.gguf")
    assert ours.keys() == theirs.keys() and len(ours) == 6
    assert theirs == ours and len(set(ours.values())) > 1
    rows = read_rows(tmp_path / "there" / "report" / "results.json")
    kinds = {row.metric for row in rows}
    assert {"refusal_rate", "generate_accuracy", "entropy"} <= kinds
    assert not kinds & {"perplexity", "kl", "letter_accuracy"}
    facts = json.loads((tmp_path / "there" / "eval" / "scores.json").read_text())
    assert "no likelihoods" in facts["not_measured"]["model.gguf"] and facts["scores"] == {}
    report = (tmp_path / "there" / "report" / "report.md").read_text()
    assert "letters, KL and perplexity were not measured" in report and "(completions)" in screen
    assert "other prompt tokens" not in screen


@pytest.fixture
def twin():
    server = Twin()
    yield server
    server.close()


def test_two_served_models_are_compared_and_no_key_is_kept(tuned, tmp_path, twin, monkeypatch):
    monkeypatch.setenv(http.KEY, "sk-made-up")
    screen = measured(tuned, tmp_path / "run", *served_by(twin.url, "plain", "tuned"))
    assert "sk-made-up" not in screen
    rows = read_rows(tmp_path / "run" / "report" / "results.json")
    assert {row.model for row in rows} == {"base", "tuned"}
    assert any(row.metric == "mcnemar_p" for row in rows)
    assert {body["model"] for body in twin.bodies} == {"plain", "tuned"}
    for file in (tmp_path / "run").rglob("*"):
        assert file.is_dir() or b"sk-made-up" not in file.read_bytes(), file
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [model["served"] for model in told["measured"]] == ["plain", "tuned"]
    asked = len(twin.bodies)
    measured(tuned, tmp_path / "run", *served_by(twin.url, "plain", "tuned"))
    assert len(twin.bodies) == asked  # everything was kept


def test_an_adapter_named_behind_its_base_is_the_tuned_model(monkeypatch):
    monkeypatch.setattr("nt_jax.generate.served.Server.check", lambda server: None)
    words = served_by("http://127.0.0.1:1/v1", "org/plain", "org/plain:tuned")
    config = load_config(None, ["model.source=x", *words])
    assert [model.name for model in served_models(config, None)] == ["base", "tuned"]


def test_a_chat_server_gets_the_system_message_and_its_counts_are_said(tuned, tmp_path, twin):
    twin.takes_ids = False
    screen = measured(tuned, tmp_path / "run", *served_by(twin.url, "tuned"))
    chats = [body["messages"] for body in twin.bodies if "messages" in body]
    assert chats and all(messages[0]["content"] == "Be brief." for messages in chats)
    # 6 requests and 3 choice questions
    assert "the server counts other prompt tokens than we do in 9 of 9 prompts" in screen
    assert "other prompt tokens" in (tmp_path / "run" / "report" / "report.md").read_text()


def test_choice_questions_alone_are_answers_of_the_server_too(tuned, tmp_path, twin):
    words = (*served_by(twin.url, "tuned"), "eval.datasets=[sums]")
    screen = measured(tuned, tmp_path / "run", *words)
    report = (tmp_path / "run" / "report" / "report.md").read_text()
    for said in (screen, report):
        assert "answers came from a server (completions)" in said
        assert "no answer was asked for" not in said


def test_a_server_that_dies_keeps_what_was_answered(tuned, tmp_path, twin):
    served = served_by(twin.url, "tuned")
    said, first = twin._said, []

    def dying(path, body):
        first.append(path)
        return said(path, body) if len(first) < 6 else (500, {"error": "out of memory"})

    twin._said = dying
    with pytest.raises(RunError, match="out of memory"):
        measured(tuned, tmp_path / "run", *served)
    partial = tmp_path / "run" / ".answers-tuned.tmp" / "tuned.jsonl"
    kept = len(partial.read_text().splitlines())
    assert 1 <= kept < 6
    twin._said, before = said, len(twin.bodies)
    measured(tuned, tmp_path / "run", *served)
    assert len(twin.bodies) - before == (6 - kept) + 3 + 1  # the questions, and what was tried out


REPLIES = {
    "refused": ((400, b"too long"), "too long"),
    "an error": ((500, b"CUDA error"), "500: CUDA error"),
    "no JSON": ((200, b"<html>"), "no answer from"),
    "no choices": ((200, b"{}"), "gave no answer"),
    "a reset connection": (None, "no answer from"),
}


@pytest.mark.parametrize("reply", REPLIES)
def test_a_prompt_that_the_server_fails_on_is_marked_and_asked_again(
    reply, tuned, tmp_path, twin, monkeypatch, capsys
):
    monkeypatch.setattr(http, "PAUSES", (0.0,))
    monkeypatch.setattr("socketserver.BaseServer.handle_error", lambda *_: None)
    served, answer, bad, refused = served_by(twin.url, "tuned"), twin.answer, [], []
    measured(tuned, tmp_path / "other", *served)
    bad.append(max(len(body["prompt"]) for body in twin.bodies if body["max_tokens"] == 6))

    def failing(path, body):
        if not body or body["max_tokens"] != 6 or len(body["prompt"]) not in bad:
            return answer(path, body)
        refused.append(body)
        if REPLIES[reply][0] is None:
            raise ConnectionResetError
        return REPLIES[reply][0]

    twin.answer = failing
    folder = tmp_path / "run" / ".answers-tuned.tmp"
    for _ in range(2):  # the second time there is nothing left but this one
        others = len(twin.bodies)
        with pytest.raises(UnfinishedError, match=r"FAILED.jsonl say which .* Repeat this command"):
            measured(tuned, tmp_path / "run", *served)
        failed = [json.loads(line) for line in (folder / "FAILED.jsonl").read_text().splitlines()]
        assert len(failed) == 1 and REPLIES[reply][1] in failed[0]["error"]
        assert len((folder / "tuned.jsonl").read_text().splitlines()) == 5
        report = (tmp_path / "run" / ".report.tmp" / "report.md").read_text()
        assert "(2 of 3)" in report and refused
    assert len(twin.bodies) - others == 2  # a short one: which way, and whether it is there
    twin.answer = answer
    measured(tuned, tmp_path / "run", *served)
    assert answers(tmp_path / "run", "tuned") == answers(tmp_path / "other", "tuned")


@pytest.mark.parametrize("more", [{"beside_base": True}, {"adapter": "x"}, {"model": "run"}])
def test_what_one_server_cannot_do_is_refused(tuned, tmp_path, more):
    if "model" in more:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.json").write_text("{}")
        more = {"model": tmp_path / "run"}
    with pytest.raises(ConfigError, match="measures what the server serves, not"):
        measured(tuned, tmp_path / "out", *served_by("http://127.0.0.1:9/v1", "m"), **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", served_by("http://h/v1", "m"), "for python -m nt_jax.eval --model FOLDER only"),
        ("eval", ["eval.engine=openai"], "needs eval.url and eval.served"),
        ("eval", ["eval.url=http://h/v1"], "needs eval.engine=openai"),
        ("eval", served_by("h:80", "m"), "is no address of a server"),
        ("eval", served_by("http://me:secret1@h/v1", "m"), "holds a name or a password"),
        ("eval", served_by("http://h/v1", "m", "m"), "names one twice"),
        ("eval", served_by("http://127.0.0.1:9/v1", "m"), "no answer from"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tuned, tmp_path, capsys, monkeypatch, command, words, said):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert cli.main(command, ["--config", str(tuned / "recipe.yaml"), *words]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and "secret1" not in told
    assert not [*tmp_path.iterdir()]
