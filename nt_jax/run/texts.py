"""What must hold of a model's texts before a run begins, and what token ids cannot defend."""

from collections.abc import Sequence

from nt_jax.checkpoints.vocabulary import beyond
from nt_jax.config.schema import RunConfig
from nt_jax.data.prompts import Prompt, messages_of
from nt_jax.data.training import Parts
from nt_jax.errors import CheckpointError, ConfigError, DataError
from nt_jax.eval.prompts import Tests
from nt_jax.generate.chat import ChatText


def check_texts(config: RunConfig, chat: ChatText) -> None:
    """Raises, before any work, where nothing can be asked or no answer be closed.

    A CheckpointError says what the model lacks, a ConfigError which system prompt it refuses.
    """
    check_asks(chat.under(None))
    check_answers_at_once(chat)
    _ = chat.end_id
    systems = {"data": config.data.system_prompt, "eval": config.eval.system_prompt}
    for section, system in systems.items():
        try:
            chat.under(system).encode("Hello")
        except DataError as error:
            raise ConfigError(f"{section}.system_prompt: {error} Leave it out.") from error


def check_asks(chat: ChatText) -> None:
    """Raises a CheckpointError where the chat template leaves out what it is asked."""
    if chat.encode("Hello") == chat.encode("Another text"):
        raise CheckpointError(
            f"The chat template of '{chat.checkpoint.path}' writes the same prompt whatever is "
            "asked. Give chat_template.jinja (or chat_template of tokenizer_config.json) as its "
            "authors wrote it; a file of Git LFS that was never fetched is such a one."
        )


def check_answers_at_once(chat: ChatText) -> None:
    """Raises where answers begin with reasoning: how they begin is what a run learns and counts."""
    if tag := chat.opened:
        raise CheckpointError(
            f"The chat template of '{chat.checkpoint.path}' opens reasoning ({tag}) in every "
            "prompt, and a run learns and counts how answers begin. Let its chat_template.jinja "
            f"end a prompt with closed reasoning: {tag}\\n\\n{tag.replace('<', '</')}\\n\\n."
        )
    if chat.thinking and chat.encode("Hello") != chat.without_reasoning.encode("Hello"):
        raise ConfigError(
            "model.thinking: this model would reason first, and a run learns and counts how "
            "answers begin. Leave it out; python -m nt_jax.eval takes it."
        )


def plain_marks(chat: ChatText, parts: Parts, tests: Tests) -> list[str]:
    """A line for each source whose prompts hold what ends a user's turn as plain text.

    Such a mark ("[/INST]" of LLaMA-2) has the same token ids whoever writes it.
    """
    mark = chat.plain_turn_end
    if mark is None:
        return []
    sources: dict[str, list[Prompt]] = {}
    for records in parts.values():
        for name, rows in (("harmful", records.harmful), ("harmless", records.harmless)):
            sources.setdefault(f"data.{name}", []).extend(row.prompt for row in rows)
        sources.setdefault("data.templates", []).extend(row.text for row in records.templates)
    for row in tests.prompts:
        sources.setdefault(row.dataset, []).append(row.prompt)
    return [
        f"{count} of {len(prompts)} prompts of {source} hold {mark!r}, which ends a user's turn "
        "in this model's template: token ids cannot tell the two apart"
        for source, prompts in sources.items()
        if (count := _holding(mark, prompts))
    ]


def beyond_vocabulary(chat: ChatText) -> list[str]:
    """A line about tokens that the model lacks, where its tokenizer has some."""
    line = beyond(chat.tokenizer, chat.checkpoint.config.vocab_size)
    return [] if line is None else [line]


def _holding(mark: str, prompts: Sequence[Prompt]) -> int:
    texts = ([message["content"] for message in messages_of(prompt)] for prompt in prompts)
    return sum(any(mark in text for text in of_prompt) for of_prompt in texts)
