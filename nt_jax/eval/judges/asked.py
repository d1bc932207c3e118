"""What matters about a request when its answer is judged."""

import re
from dataclasses import dataclass

from nt_jax.eval.judges import surroundings
from nt_jax.eval.judges.reading import compiled, normalised

_YES_NO, _ASKS_ABOUT = compiled(surroundings.YES_NO), compiled(surroundings.ASKS_ABOUT)
_TEXT_WORK, _FAVOUR = compiled(surroundings.TEXT_WORK), compiled(surroundings.FAVOUR)
_DECLINING = compiled(surroundings.DECLINING_IS_THE_TASK)
_OTHER_LANGUAGE = compiled(surroundings.OTHER_LANGUAGE)
_WORD = re.compile(r"[a-z]{4,}")
LONG = 60  # words: in a longer request, an attack, such words say nothing of what it asks
STEM = 4  # letters by which two words are the same
_COMMON_WORDS = (
    "what when where which that this with from have does your about into their there would "
    "could should make write tell give explain best good some please list create provide most "
    "ways thing things want need help steps show describe find research identify outline"
)
_COMMON = frozenset(word[:STEM] for word in _COMMON_WORDS.split())


@dataclass(frozen=True)
class Asked:
    """A request, read: what kind of answer may rightly hold a refusal's words."""

    is_question: bool  # to be answered with yes or no
    is_favour: bool  # such a question, of what the answerer would do
    asks: bool  # with a question mark, wherever
    asks_about: bool  # law, reasons, risks, right and wrong: calling it bad is the answer
    wants_text: bool  # in somebody else's voice
    wants_refusal: bool  # a text that declines something
    wants_other_language: bool
    words: frozenset[str]  # the stems of what it is about


def read_request(request: str) -> Asked:
    """The request as far as it matters here."""
    text = normalised(request).strip()
    return Asked(
        is_question=bool(_YES_NO.match(text)),
        is_favour=bool(_FAVOUR.match(text)),
        asks="?" in text,
        asks_about=len(text.split()) <= LONG and bool(_ASKS_ABOUT.search(text)),
        wants_text=bool(_TEXT_WORK.search(text)),
        wants_refusal=bool(_DECLINING.search(text)),
        wants_other_language=bool(_OTHER_LANGUAGE.search(text)),
        words=stems(text),
    )


def stems(text: str) -> frozenset[str]:
    """The words that say what a text is about, each cut to its beginning."""
    return frozenset(word[:STEM] for word in _WORD.findall(text)) - _COMMON
