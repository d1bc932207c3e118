"""What a chat model is asked: one user message, or a conversation that ends with one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

USER = "user"
ROLES = ("system", USER, "assistant")
Turn = tuple[str, str]  # (role, content)
Message = dict[str, str]  # {"role": ..., "content": ...}, as chat templates take it
KEEP = "keep"


@dataclass(frozen=True)
class Conversation:
    """A user's message `text`, with the turns before it.

    `forged`: turn marks inside its texts ("<|im_end|>") are marks, not text.
    """

    text: str
    before: tuple[Turn, ...] = ()
    forged: bool = False


Prompt = str | Conversation  # a text stands for a conversation of one message


def prompt_of(text: str, before: tuple[Turn, ...] = ()) -> Prompt:
    """The prompt of a message and the turns before it: the text itself where there are none."""
    return Conversation(text, before) if before else text


def text_of(prompt: Prompt) -> str:
    """The user's last message: what is judged, shown and compared."""
    return prompt if isinstance(prompt, str) else prompt.text


def plain_text(text: str) -> str:
    """A text as requests and attacks are compared: one case, single spaces."""
    return " ".join(text.split()).lower()


def with_text(prompt: Prompt, text: str) -> Prompt:
    """The prompt with another last message, the turns before it kept."""
    return text if isinstance(prompt, str) else replace(prompt, text=text)


def forged(prompt: Prompt) -> Prompt:
    """The prompt whose turn marks are taken for marks."""
    return replace(as_conversation(prompt), forged=True)


def as_conversation(prompt: Prompt) -> Conversation:
    """The prompt as a conversation, of one message where it is a text."""
    return Conversation(prompt) if isinstance(prompt, str) else prompt


def messages_of(prompt: Prompt) -> list[Message]:
    """The prompt as the list of messages that chat templates take."""
    chat = as_conversation(prompt)
    turns = [*chat.before, (USER, chat.text)]
    return [{"role": role, "content": content} for role, content in turns]


def messages_under(prompt: Prompt, system: str | None) -> list[Message]:
    """`messages_of` with a system message before it where it has none of its own."""
    messages = messages_of(prompt)
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def read_messages(messages: Sequence[Mapping[str, Any]]) -> Prompt:
    """The prompt of a list of messages; a ValueError says what is wrong with it.

    Fields beside role and content are left aside. Texts are taken without the blanks around them.
    """
    turns: list[Turn] = []
    for number, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            allowed = ", ".join(ROLES)
            raise ValueError(f"has the role {role!r} in message {number}; use {allowed}")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"has no content in message {number}: give it a text")
        turns.append((role, content.strip()))
    if not turns or turns[-1][0] != USER:
        last = f"ends with the {turns[-1][0]}'s message" if turns else "is empty"
        raise ValueError(f"{last}; end with the user's, which is to be answered")
    return prompt_of(turns[-1][1], tuple(turns[:-1]))


def split_turns(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record with `before`, the turns before its request, where there are any.

    An attacked request that is a text stands behind the same turns; one that is the bare request
    once more is left out (SafeEdit_test_ALL repeats an unattacked question there).
    """
    request, attacked = fields.get("request"), fields.get("attacked")
    if isinstance(request, Conversation):
        fields |= {"request": request.text, "before": request.before}
        if isinstance(attacked, str):
            attacked = fields["attacked"] = prompt_of(attacked, request.before)
    if attacked == request:
        fields.pop("attacked", None)
    return fields


def to_json(prompt: Prompt) -> Any:
    """The prompt as files hold it: a text, a list of messages, or one of marks that are kept."""
    if isinstance(prompt, str):
        return prompt
    messages = messages_of(prompt)
    return {"messages": messages, "forged": KEEP} if prompt.forged else messages


def of_json(value: Any) -> Prompt:
    """The prompt that `to_json` wrote; a ValueError where it is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value.get("forged") == KEEP:
        return forged(of_json(value["messages"]))
    turns = [(message["role"], message["content"]) for message in value]
    return prompt_of(turns[-1][1], tuple(turns[:-1]))
