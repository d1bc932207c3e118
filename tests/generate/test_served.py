"""The client of an OpenAI-compatible server, against one on this machine."""

import io
import json
import random
import socket
import threading

import pytest
from rich.console import Console

from nt_jax.console import shown_on
from nt_jax.errors import DataError, RunError, SomeFailedError
from nt_jax.generate import http
from nt_jax.generate.decode import Sampling
from nt_jax.generate.http import UnansweredError
from nt_jax.generate.served import (
    CHAT,
    IDS,
    IN_A_ROW,
    PLAIN,
    Question,
    Reply,
    Server,
    differing_counts,
)
from nt_jax.limits import REPLY_BYTES
from tests.faults.readers import answer_all
from tests.generate.openai_twin import Twin


@pytest.fixture
def twin():
    server = Twin()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(http, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.delenv(http.KEY, raising=False)


def question(tokens: int, turns: int = 1, prefilled: bool = False) -> Question:
    return Question(list(range(tokens)), [{"role": "user", "content": "Hi"}] * turns, prefilled)


MANY = [question(3 + n) for n in range(6)]


def test_token_ids_go_where_they_are_taken_and_replies_keep_their_order(twin):
    heard, said, three = [], twin._said, threading.Barrier(3)

    def meeting(path, body):
        if body and body["max_tokens"] == 7:
            three.wait(60)  # for two more that are asked at the same time
        return said(path, body)

    twin._said = meeting
    server = Server(twin.url, "tuned", together=3)
    server.check()
    replies = server.answer(MANY, 7, on_reply=lambda row, reply: heard.append((row, reply.text)))
    assert [reply.text for reply in replies] == [f"ids {3 + n}" for n in range(6)]
    assert sorted(heard) == [(n, f"ids {3 + n}") for n in range(6)]
    assert {reply.by for reply in replies} == {IDS} and {reply.tokens for reply in replies} == {2}
    probe, *asked = twin.bodies
    assert probe["max_tokens"] == 1 and len(asked) == 6 and twin.most_at_once == 3
    for body in asked:
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("tuned", 7, 0.0)
        assert "seed" not in body and body["prompt"] == list(range(len(body["prompt"])))
    assert twin.keys == {None}
    assert server.answer([], 7) == []


def test_a_server_is_asked_to_draw_as_our_engine_does(twin):
    """Whatever it has as defaults; one that knows the names of OpenAI alone is asked without."""
    Server(twin.url, "tuned").answer(MANY, 7)
    asked = [body for body in twin.bodies if body["max_tokens"] == 7]
    assert len(asked) == len(MANY) and all(PLAIN.items() <= body.items() for body in asked)
    said, twin.bodies[:] = twin._said, []

    def strict(path, body):
        if body and "top_k" in body:
            return 400, {"error": "unknown field top_k"}
        return said(path, body)

    twin._said, screen = strict, Console(file=io.StringIO(), width=200)
    with shown_on(screen):
        replies = Server(twin.url, "tuned").answer(MANY, 7)
    assert [reply.text for reply in replies] == [f"ids {3 + n}" for n in range(6)]
    assert ["top_k" in body for body in twin.bodies] == [True] + [False] * (1 + len(MANY))
    assert screen.file.getvalue().count("takes no top_p, top_k") == 1


def test_draws_have_a_seed_of_their_own(twin):
    Server(twin.url, "tuned").answer(
        MANY[:2], 4, sampling=Sampling(0.7, 5), streams=[10, 2**31 - 1]
    )
    seeds = sorted((b["seed"], b["temperature"]) for b in twin.bodies if "seed" in b)
    assert seeds == [(4, 0.7), (15, 0.7)]


@pytest.mark.parametrize("why", ["refused", "read as text", "no such path"])
def test_a_server_without_token_ids_is_asked_in_chats(twin, why):
    if why == "refused":
        twin.takes_ids = False
    elif why == "read as text":
        twin.extra = 20  # "[0, 1, 2]" as text is many tokens
    else:
        twin.before = [(404, b"nothing here")]
    replies = Server(twin.url, "tuned").answer([question(3, 1), question(4, 2)], 4)
    assert [reply.text for reply in replies] == ["chat 1", "chat 2"]
    assert {reply.by for reply in replies} == {CHAT}
    chats = [body for body in twin.bodies if body["path"] == "/v1/chat/completions"]
    assert len(chats) == 2 and not any("prompt" in body for body in chats)


def test_an_answer_cannot_be_begun_in_a_chat(twin):
    twin.takes_ids = False
    with pytest.raises(RunError, match="no answer can be begun"):
        Server(twin.url, "tuned").answer([question(3), question(3, prefilled=True)], 4)


def test_other_counts_of_prompt_tokens_are_said():
    same, more = Reply("", IDS, 3, 3, 1).facts, Reply("", IDS, 3, 4, 1).facts
    silent = Reply("", CHAT, 9, None, 1).facts
    assert differing_counts([{}, same, same]) is None
    assert "in 1 of 2 prompts, at most 4 for 3" in differing_counts([same, more])
    assert "does not say how many prompt tokens it saw (1 prompts)" in differing_counts([silent])


def test_a_busy_server_is_asked_again_and_a_dead_one_is_named(twin):
    twin.before = [(503, b"loading"), (429, b"slow down")]
    assert Server(twin.url, "tuned").answer(MANY[:1], 4)[0].text == "ids 3"
    twin.before = [(503, b"loading")] * 4
    with pytest.raises(RunError, match=r"503.*start the server"):
        Server(twin.url, "tuned").check()
    twin.before = [(503, b"loading")] * 4  # of the first that it is asked
    with pytest.raises(RunError, match=r"503.*start the server") as stopped:
        Server(twin.url, "tuned").answer(MANY, 4)
    assert not isinstance(stopped.value, SomeFailedError)
    twin.close()
    with pytest.raises(RunError, match=r"no answer from http.*start the server"):
        Server(twin.url, "tuned").check()


def test_a_model_that_is_not_served_is_named(twin):
    with pytest.raises(RunError, match="serves tuned, plain, and not 'other'"):
        Server(twin.url, "other").check()
    twin.before = [(404, b"")]
    Server(twin.url, "other").check()  # no list, no check


def test_an_adapter_of_sglang_is_not_asked_for_by_its_name_alone(twin):
    """Its list names it `tuned`, by which its base would answer: 0.5.23, serving_base.py."""
    base = {"id": "org/plain", "owned_by": "sglang", "root": "org/plain", "parent": None}
    adapter = {"id": "tuned", "owned_by": "sglang", "root": "out/lora", "parent": "org/plain"}
    for listed, good, wrong in (
        ([base, adapter], "org/plain:tuned", "tuned"),
        ([adapter | {"owned_by": "vllm"}], "tuned", "org/plain:tuned"),
    ):
        for name in (good, wrong):
            twin.before = [(200, json.dumps({"data": listed}).encode())]
            if name == good:
                Server(twin.url, name).check()
                continue
            with pytest.raises(RunError, match=f"serves .*{good}, and not '{wrong}'"):
                Server(twin.url, name).check()
    twin.before = [(200, b'{"data": ["tuned"]}')]
    with pytest.raises(RunError, match="is no list of models"):
        Server(twin.url, "tuned").check()


def test_a_prompt_that_is_refused_is_not_a_server_that_fails(twin):
    server = Server(twin.url, "tuned")
    server.check()
    server.way(MANY[0].ids)
    for code, kind in ((400, DataError), (422, DataError), (500, UnansweredError)):
        twin.before = [(code, b"too long")]
        with pytest.raises(SomeFailedError, match=f"refused a prompt .{code}: too long") as caught:
            server.answer(MANY[:1], 4)
        assert {row: type(error) for row, error in caught.value.reasons.items()} == {0: kind}
    for code in (401, 403, 404):  # would be said of every prompt
        twin.before = [(code, b"no")]
        with pytest.raises(RunError, match=f"refused a prompt .{code}: no") as stopped:
            server.answer(MANY[:1], 4)
        assert not isinstance(stopped.value, SomeFailedError)


def failing(twin: Twin, bad, reply: tuple[int, bytes] | None) -> None:
    """Let prompts of `bad` lengths get this reply, or none and a closed connection."""
    answer = twin.answer

    def answered(path, body):
        if body is None or len(body["prompt"]) not in bad:
            return answer(path, body)
        if reply is None:
            raise ConnectionResetError
        twin.bodies.append(body)
        return reply

    twin.answer = answered


ODD = {
    "an error": (500, b"CUDA error"), "no JSON": (200, b"<html>"), "no choices": (200, b"{}"),
    "another type": (200, b'{"choices": [{"text": 5}]}'), "busy for ever": (503, b"busy"),
    "a reset connection": None,
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
def test_one_prompt_that_always_fails_does_not_keep_the_others(odd, twin, monkeypatch):
    monkeypatch.setattr("socketserver.BaseServer.handle_error", lambda *_: None)
    failing(twin, {3}, ODD[odd])  # the first: what it is tried with is short
    heard = {}
    questions = [question(20), question(3), *map(question, range(30, 50))]
    with pytest.raises(SomeFailedError) as caught:
        server = Server(twin.url, "tuned", together=3)
        server.answer(questions, 7, on_reply=lambda row, reply: heard.update({row: reply.text}))
    assert caught.value.reasons.keys() == {1} and "\n" not in str(caught.value)
    assert isinstance(caught.value.reasons[1], UnansweredError)
    assert heard == {n: f"ids {len(q.ids)}" for n, q in enumerate(questions) if n != 1}


def test_a_server_that_fails_whatever_it_is_asked_ends_it(twin):
    server = Server(twin.url, "tuned", together=2, _way=[IDS])
    failing(twin, range(1000), (500, b"CUDA error"))
    with pytest.raises(RunError, match=r"whatever it is asked: .*CUDA error.*start the serv") as e:
        server.answer([question(20 + n) for n in range(200)], 4)
    assert not isinstance(e.value, SomeFailedError) and IN_A_ROW < len(twin.bodies) < 4 * IN_A_ROW
    with pytest.raises(RunError, match="whatever it is asked"):  # fewer than are counted
        server.answer(MANY[:2], 4)


def test_many_prompts_that_fail_in_a_row_are_theirs_where_a_short_one_is_answered(twin):
    failing(twin, range(100, 200), (500, b"CUDA error"))
    asked = [question(100 + n) for n in range(3 * IN_A_ROW)]
    with pytest.raises(SomeFailedError, match=rf"^{3 * IN_A_ROW} prompts failed. The first: http"):
        Server(twin.url, "tuned").answer(asked, 4)
    trials = [body for body in twin.bodies if body["max_tokens"] == 1]
    assert len(trials) == 1 + 3 + 1  # first, after every eight, and last


def test_the_key_is_sent_and_never_said(twin, monkeypatch):
    monkeypatch.setenv(http.KEY, "sk-made-up")
    twin.before = [(401, b"wrong key sk-made-up"), (401, b"wrong key sk-made-up")]
    with pytest.raises(RunError, match=r"refused a prompt \(401: wrong key \*\*\*\)") as raised:
        Server(twin.url, "tuned").answer(MANY[:1], 4)
    assert "sk-made-up" not in repr(raised.value)
    assert twin.keys == {"Bearer sk-made-up"}


def test_a_redirect_does_not_carry_the_key_away(twin, monkeypatch):
    other = Twin()
    monkeypatch.setenv(http.KEY, "sk-made-up")
    twin.before = [(307, other.url.encode()), (302, other.url.encode())]
    with pytest.raises(RunError, match="refused a prompt"):
        Server(twin.url, "tuned").answer(MANY[:1], 4)
    assert not other.keys
    other.close()


def test_whatever_comes_back_is_an_answer_or_one_line(twin):
    rng, good = random.Random(0), b'{"choices": [{"text": "a"}], "usage": {"prompt_tokens": 3}}'
    odd = [
        b"", b"[]", b"null", b"{}", b'{"choices": []}', b'{"choices": [{"text": 5}]}',
        b'{"choices": [null]}', b'{"choices": [{"text": "a"}], "usage": 3}', b"\xff\xfe",
        b'{"choices": [{"text": "a"}], "usage": {"prompt_tokens": "x"}}',
        b'{"choices": [{"text": "a"}], "usage": {"prompt_tokens": Infinity}}', b"[" * 100_000,
        b'{"choices": [{"text": "' + b"a" * (REPLY_BYTES.value + 1) + b'"}]}',
    ]  # fmt: skip
    for _ in range(60):
        cut = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            cut[rng.randrange(len(cut))] = rng.randrange(256)
        odd.append(bytes(cut[: rng.randint(1, len(cut))]))
    failed = 0
    for body in odd:
        server = Server(twin.url, "tuned")
        server._way.append(IDS)
        twin.before = [(200, body)] * 4
        try:
            (reply,) = server.answer(MANY[:1], 4)
            assert isinstance(reply.text, str)
        except RunError as error:
            failed += 1
            assert "\n" not in str(error) and twin.url in str(error)
    assert failed > 40


def test_half_a_character_is_written_as_tokenizers_do(twin):
    server = Server(twin.url, "tuned", _way=[IDS])
    twin.before = [(200, rb'{"choices": [{"text": "a\ud83d \ud83d\ude00"}]}')]
    (reply,) = server.answer(MANY[:1], 4)
    assert reply.text == "a\ufffd \U0001f600"


@pytest.mark.parametrize(
    "reply", [b"", b"NONE\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_reply_that_is_cut_off_is_one_line(reply, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer_all, args=(listening, reply), daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with pytest.raises(RunError, match="no answer from http") as caught:
            Server(url, "tuned", _way=[IDS]).answer(MANY[:1], 4)
    assert "\n" not in str(caught.value)
