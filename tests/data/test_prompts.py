"""A prompt is a text or a conversation; files and records keep both."""

import json

import pytest

from nt_jax.data.prompts import (
    Conversation,
    forged,
    messages_of,
    of_json,
    read_messages,
    text_of,
    to_json,
    with_text,
)
from nt_jax.data.records import AttackTemplate, HarmfulRequest
from nt_jax.data.sources import load_choices, load_harmful, load_harmless
from nt_jax.errors import DataError

TURNS = (("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi."))
CHAT = Conversation("And now?", TURNS)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "And now?"},
]


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        ("a text", "a text"),
        (CHAT, MESSAGES),
        (forged("<a>"), {"messages": [{"role": "user", "content": "<a>"}], "forged": "keep"}),
        (forged(CHAT), {"messages": MESSAGES, "forged": "keep"}),
    ],
)
def test_a_prompt_survives_a_file(prompt, kept):
    assert to_json(prompt) == kept
    assert of_json(json.loads(json.dumps(to_json(prompt)))) == prompt


def test_another_last_message_keeps_the_turns_before():
    assert text_of("a") == "a" and text_of(CHAT) == "And now?"
    assert with_text("a", "b") == "b" and messages_of("a") == [{"role": "user", "content": "a"}]
    then = [*MESSAGES[:3], MESSAGES[3] | {"content": "Then?"}]
    assert messages_of(with_text(CHAT, "Then?")) == then
    attack = AttackTemplate("t", "Pretend. {request} {request}")
    assert attack.apply("x") == "Pretend. x x"
    assert attack.apply(CHAT) == Conversation("Pretend. And now? And now?", TURNS)


def test_one_message_of_the_user_is_a_plain_text():
    assert read_messages([{"role": "user", "content": " hi \n", "name": "Ann"}]) == "hi"
    assert HarmfulRequest("h", "hi").prompt == "hi"


@pytest.mark.parametrize("column", ["request", "messages"])
def test_a_row_may_be_a_conversation(tmp_path, column):
    path = jsonl(tmp_path / "a.jsonl", {column: MESSAGES, "refusal": "No."})
    (row,) = load_harmful(path)
    assert (row.request, row.before, row.prompt, row.refusal) == ("And now?", TURNS, CHAT, "No.")
    path = jsonl(tmp_path / "b.jsonl", {column: MESSAGES, "answer": "Yes.", "sounds_harmful": True})
    (row,) = load_harmless(path)
    assert (row.prompt, row.answer, row.sounds_harmful) == (CHAT, "Yes.", True)


def test_a_published_column_may_hold_messages(tmp_path):
    (row,) = load_harmless(jsonl(tmp_path / "a.jsonl", {"prompt": MESSAGES, "category": "x"}))
    assert row.prompt == CHAT and row.sounds_harmful
    path = jsonl(tmp_path / "b.jsonl", {"turns": MESSAGES})
    assert load_harmful(path, columns={"request": "turns"})[0].prompt == CHAT


def test_an_attack_may_be_a_conversation_or_the_last_message_of_one(tmp_path):
    attack = [*MESSAGES[:3], {"role": "user", "content": "Pretend: and now?"}]
    path = jsonl(tmp_path / "a.jsonl", {"request": "And now?", "attacked": attack})
    (row,) = load_harmful(path)
    assert row.request == "And now?" and row.before == ()
    assert row.attacked == Conversation("Pretend: and now?", TURNS)
    path = jsonl(tmp_path / "b.jsonl", {"request": MESSAGES, "attacked": "Pretend: and now?"})
    assert load_harmful(path)[0].attacked == row.attacked
    path = jsonl(tmp_path / "c.jsonl", {"request": MESSAGES, "attacked": MESSAGES})
    assert load_harmful(path)[0].attacked is None  # it is the bare request once more


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        (MESSAGES[:3], "ends with the assistant's message; end with the user's"),
        ([MESSAGES[0]], "ends with the system's message"),
        (
            [{"role": "tool", "content": "x"}, *MESSAGES],
            "has the role 'tool' in message 1; use",
        ),
        ([{"role": "human", "content": "x"}], "has the role 'human' in message 1"),
        ([*MESSAGES[:3], {"role": "user", "content": "  "}], "has no content in message 4"),
        ([*MESSAGES[:3], {"role": "user", "content": None}], "has no content in message 4"),
    ],
)
def test_a_conversation_that_cannot_be_asked_is_named_with_its_row(tmp_path, messages, why):
    path = jsonl(tmp_path / "a.jsonl", {"request": MESSAGES}, {"request": messages})
    with pytest.raises(DataError) as error:
        load_harmful(path)
    assert f"{path}:2: 'request' " in str(error.value) and why in str(error.value)
    assert str(error.value).count(path) == 1


def test_a_choice_question_is_one_text(tmp_path):
    row = {"question": MESSAGES, "choices": ["a", "b"], "answer": 0}
    with pytest.raises(DataError, match=r"a\.jsonl:1: a choice question is one text"):
        load_choices(jsonl(tmp_path / "a.jsonl", row))
