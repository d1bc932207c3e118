"""Conversations of every family, and the token that closes an answer, by the real templates."""

import copy

import pytest

from nt_jax.checkpoints.chat_template import TEMPLATE_DATE, answer_end, plain_turn_end
from nt_jax.checkpoints.tokenizer import encode_answer, encode_chat
from nt_jax.console import shown_on
from nt_jax.data.prompts import Conversation, messages_of
from nt_jax.errors import CheckpointError, DataError
from tests.checkpoints.families import FAMILIES, tokenizer

TALK = (
    ("user", "Hello there"),
    ("assistant", "Hi."),
    ("user", "How are you?"),
    ("assistant", "Fine."),
)
SYSTEM = ("system", "Be brief.")
HAS_SYSTEM = [family for family in FAMILIES if family != "mistral v0.2"]


def theirs(family, messages, **options):
    """The ids that transformers gives."""
    return tokenizer(family).apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, date_string=TEMPLATE_DATE,
        **{"enable_thinking": False, **options},
    )  # fmt: skip


# --- end of answer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama2", 2), ("llama2 in transformers 5", 2), ("mistral v0.2", 2), ("mistral v0.3", 2),
        ("llama3.1", 128009), ("qwen2.5", 151645), ("qwen3", 151645),
    ],
)  # fmt: skip
@pytest.mark.parametrize("thinking", [False, True])
def test_an_answer_ends_as_the_template_ends_it(family, expected, thinking):
    end = answer_end(tokenizer(family), FAMILIES[family][2], thinking)
    assert end == expected
    assert encode_answer(tokenizer(family), "Paris.", end)[-1] == expected


def test_an_end_that_generation_runs_past_is_refused():
    with pytest.raises(CheckpointError) as error:
        answer_end(tokenizer("llama3.1"), (128001, 128008))
    assert str(error.value) == (
        "llama3.1: answers end with <|eot_id|> (128009), but generation stops at 128001, 128008 "
        "alone. Add 128009 to eos_token_id in generation_config.json."
    )
    with pytest.raises(CheckpointError, match=r"stops at no token alone\. Add 151645"):
        answer_end(tokenizer("qwen3"), ())


def with_template(family, template, **names):
    changed = copy.deepcopy(tokenizer(family))  # a shallow copy shares the special tokens
    changed.chat_template = template
    for name, value in names.items():
        setattr(changed, name, value)
    return changed


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{{ messages[0].content }}{% if messages[1:] %}{{ raise_exception('one') }}{% endif %}",
        "{{ messages[0].content }}",  # shows no answer at all
        "{% for m in messages %}{{ m.content }} end<|eot_id|>{% endfor %}",  # text comes first
    ],
)
def test_a_template_without_an_end_falls_back_to_eos_and_says_so(template, capsys):
    from rich.console import Console

    changed = with_template("llama3.1", template)
    with shown_on(Console(width=120)):
        assert answer_end(changed, (128001, 128009)) == 128009
    shown = capsys.readouterr().out
    assert "warning" in shown and shown.count("<|eot_id|> is taken for it") == 1
    with pytest.raises(CheckpointError, match=r"answers end with <\|eot_id\|> \(128009\)"):
        answer_end(changed, (128001,))


def test_neither_template_nor_tokenizer_may_name_an_end():
    changed = with_template("llama3.1", "{{ messages[0].content }}", eos_token=None)
    with pytest.raises(CheckpointError, match="neither its chat template nor its tokenizer names"):
        answer_end(changed, (128009,))


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama2", "[/INST]"), ("mistral v0.2", "[/INST]"), ("mistral v0.3", None),
        ("llama3.1", None), ("qwen2.5", None), ("qwen3", None),
    ],
)  # fmt: skip
def test_where_turns_end_in_plain_text_that_is_known(family, expected):
    assert plain_turn_end(tokenizer(family)) == expected


# --- conversations -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("turns", [(), TALK[:2], TALK])
def test_a_conversation_has_the_ids_of_apply_chat_template(family, turns):
    chat = Conversation("And now? ", turns) if turns else "And now? "
    assert encode_chat(tokenizer(family), chat) == theirs(family, messages_of(chat))


@pytest.mark.parametrize("family", HAS_SYSTEM)
@pytest.mark.parametrize("turns", [(), TALK])
def test_a_system_message_stands_first_and_a_records_own_in_its_place(family, turns):
    own = Conversation("And now?", (SYSTEM, *turns))
    expected = theirs(family, messages_of(own))
    assert encode_chat(tokenizer(family), own) == expected
    assert encode_chat(tokenizer(family), Conversation("And now?", turns), "Be brief.") == expected
    assert encode_chat(tokenizer(family), own, "Be long.") == expected


def test_a_system_message_that_the_template_refuses_is_one_clear_error():
    with pytest.raises(DataError, match="refuses a system message: "):
        encode_chat(tokenizer("mistral v0.2"), "Hello", "Be brief.")


@pytest.mark.parametrize("family", ["llama2", "mistral v0.2", "mistral v0.3"])
def test_turns_that_do_not_alternate_are_refused_where_the_template_says_so(family):
    chat = Conversation("x", (("user", "y"),))
    with pytest.raises(DataError, match=r"refuses this conversation: .*alternate"):
        encode_chat(tokenizer(family), chat)


def test_thinking_is_off_unless_asked_for():
    read = tokenizer("qwen3")
    off, on = (encode_chat(read, "Why?", thinking=thinking) for thinking in (False, True))
    think = [151667, *read.encode("\n\n"), 151668, *read.encode("\n\n")]
    assert off == on + think and not {151667, 151668} & set(on)
    assert on == theirs("qwen3", messages_of("Why?"), enable_thinking=True)
    for family in ("qwen2.5", "llama3.1"):  # which do not know it
        assert encode_chat(tokenizer(family), "Why?", thinking=True) == theirs(
            family, messages_of("Why?")
        )
