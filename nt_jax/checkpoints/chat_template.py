"""A checkpoint's chat template: conversations as one text, and what closes an answer in it."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from nt_jax.checkpoints.marks import marks_of
from nt_jax.checkpoints.trial import try_template
from nt_jax.console import say
from nt_jax.data.prompts import USER, Message
from nt_jax.errors import CheckpointError, DataError, brief

# Templates of LLaMA-3.1 and later write today's date, so the same prompt would differ from day to
# day; this is the date they fall back to.
TEMPLATE_DATE = "26 Jul 2024"
_DAY, _LETTERS = datetime.datetime(2024, 7, 26), "aAbBcCdDeFgGhHIjklmMnpRSTuUVwWxXyYzZ"
_WORDS = {code: _DAY.strftime(code) for c in _LETTERS for code in (f"%-{c}", f"%{c}")}
# Others ask for it by strftime_now(FORMAT). transformers gives them no function of ours, so that
# one is put before the template; its line break is trimmed, as behind every block.
_TODAY = (
    "{% macro strftime_now(format) %}{% set said = namespace(text=format) %}"
    f"{{% for code, word in {_WORDS}.items() %}}"
    "{% set said.text = said.text.replace(code, word) %}{% endfor %}"
    "{{ said.text }}{% endmacro %}\n"
)
THINKING = "enable_thinking"  # what Qwen3's template is told
STOPS = 5  # ids that a message lists
# What rendering raises: the template's own refusals, and its mistakes.
_BROKEN = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
ASKED, ANSWERED = "What is asked", "What is answered"  # texts that no template looks into


def render(
    tokenizer: PreTrainedTokenizerFast,
    messages: Sequence[Message],
    thinking: bool = False,
    answered: bool = False,
) -> str:
    """The chat as the text that the model reads, up to where the next answer begins.

    `answered`: the last message is an answer, and nothing is opened after it. Raises a DataError
    where the template refuses the messages, a CheckpointError where there is none.
    """
    if tokenizer.chat_template is None:
        do = "Use an instruct model, or add chat_template.jinja to its directory."
        raise CheckpointError(
            f"The tokenizer of '{tokenizer.name_or_path}' has no chat template, so nothing can be "
            f"asked. {_mend(tokenizer, do)}"
        )
    # Templates that do not know these two ignore them.
    settings = {THINKING: thinking, "date_string": TEMPLATE_DATE}
    opened = {"tokenize": False, "add_generation_prompt": not answered}
    try:
        template = dated(tokenizer.get_chat_template())
        known = {**tokenizer.special_tokens_map, **settings}
        try_template(template, known, str(tokenizer.name_or_path))
        opened |= {"chat_template": template}
        return str(tokenizer.apply_chat_template(list(messages), **opened, **settings))
    except _BROKEN as error:
        about = _about(messages)
        raise DataError(f"The model's chat template refuses {about}: {brief(error)}.") from error


def asks_thinking(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the template opens a stretch of reasoning or not, as it is told."""
    return tokenizer.chat_template is not None and THINKING in tokenizer.get_chat_template()


def _mend(tokenizer: PreTrainedTokenizerFast, in_folder: str) -> str:
    """What to do about a folder's files; a GGUF file has none beside it that are read."""
    gguf = Path(tokenizer.name_or_path).suffix == ".gguf"
    return "Use another conversion, or the folder that it was made of." if gguf else in_folder


def dated(template: str) -> str:
    """The template, with TEMPLATE_DATE for today where it asks `strftime_now` for the date."""
    return _TODAY + template if "strftime_now" in template else template


def _about(messages: Sequence[Message]) -> str:
    if messages[0]["role"] == "system":
        return "a system message"
    return "this message" if len(messages) == 1 else "this conversation"


def _around_answer(tokenizer: PreTrainedTokenizerFast, thinking: bool) -> tuple[str, str] | None:
    """(text between a question and its answer, text behind it); None if none can be rendered."""
    chat = [{"role": USER, "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
    try:
        text = render(tokenizer, chat, thinking, answered=True)
    except DataError:
        return None
    before, found, behind = text.rpartition(ANSWERED)
    return (before.rpartition(ASKED)[2], behind) if found else None


def shown_end(tokenizer: PreTrainedTokenizerFast, thinking: bool = False) -> int | None:
    """The first token behind an answer in a rendered chat, blanks aside; None where it has none."""
    around, marks = _around_answer(tokenizer, thinking), marks_of(tokenizer)
    mark = marks.at(around[1].lstrip()) if around else None
    return None if mark is None else marks.ids[mark]


def answer_end(
    tokenizer: PreTrainedTokenizerFast, eos_ids: Sequence[int], thinking: bool = False
) -> int:
    """The token that closes an answer: the first behind it in a rendered chat, blanks aside.

    A template that shows none falls back to the tokenizer's EOS, with a line on the screen. Raises
    a CheckpointError where generation does not stop at that token (`eos_ids`).
    """
    where, shown = tokenizer.name_or_path, shown_end(tokenizer, thinking)
    end = tokenizer.eos_token_id if shown is None else shown
    if not isinstance(end, int):
        raise CheckpointError(
            f"{where}: neither its chat template nor its tokenizer names a token that ends an "
            f"answer. {_mend(tokenizer, 'Add eos_token to tokenizer_config.json.')}"
        )
    name = tokenizer.convert_ids_to_tokens(end)
    if end not in eos_ids:
        more = f" and {len(eos_ids) - STOPS:,} more" if len(eos_ids) > STOPS else ""
        stops = ", ".join(map(str, eos_ids[:STOPS])) or "no token"
        raise CheckpointError(
            f"{where}: answers end with {name} ({end}), but generation stops at {stops}{more} "
            f"alone. {_mend(tokenizer, f'Add {end} to eos_token_id in generation_config.json.')}"
        )
    if shown is None:
        say("warning", f"the chat template shows no end of an answer: {name} is taken for it")
    return end


def plain_turn_end(tokenizer: PreTrainedTokenizerFast, thinking: bool = False) -> str | None:
    """What ends a user's turn, where it is plain text; None where it is a token of its own.

    Anyone can write it ("[/INST]" of LLaMA-2), with the same ids as the template.
    """
    around = _around_answer(tokenizer, thinking)
    between = around[0].strip() if around else ""
    return between if between and not marks_of(tokenizer).count(between) else None
