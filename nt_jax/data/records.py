"""The kinds of rows that everything is trained and tested on, as frozen records."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nt_jax.data.prompts import Prompt, Turn, prompt_of, text_of, with_text
from nt_jax.errors import DataError

Ids = Sequence[int]
Encode = Callable[[Prompt], list[int]]  # a prompt to its ids, template applied
SLOT = "{request}"
LETTERS = "ABCDEFGHIJ"
ATTACK_TYPES = ("pretending", "attention shifting", "privilege escalation", "emotion")

# The fine labels of SafeEdit, grouped into the paper's four types (as Liu et al. 2023 group them).
_FINE_LABELS = {
    "pretending": ("character role play", "assumed responsibility", "research experiment"),
    "attention shifting": (
        "text continuation",
        "logical reasoning",
        "program execution",
        "translation",
    ),
    "privilege escalation": ("superior model", "sudo mode", "simulate jailbreaking"),
    "emotion": ("emotion control",),
}


def _letters(label: str) -> str:
    return re.sub("[^a-z]", "", label.casefold())


_TYPE_OF = {_letters(label): kind for kind, fine in _FINE_LABELS.items() for label in (kind, *fine)}


def parse_attack_types(labels: str) -> tuple[str, ...]:
    """The types named by comma-joined labels, coarse or fine, without repeats and in their order.

    A label that belongs to no known type stands for itself, so that it is never taken for one.
    """
    names = (label.strip() for label in labels.split(","))
    return tuple(dict.fromkeys(_TYPE_OF.get(_letters(name), name) for name in names if name))


def _require(filled: str, what: str, record: str) -> None:
    if not filled.strip():
        raise DataError(f"{record}: {what} is empty. Give it a text or leave the row out.")


@dataclass(frozen=True)
class HarmfulRequest:
    """A request to refuse. `refusal` is None where the source has none (AdvBench, StrongREJECT).

    `request` is the user's last message, `before` the turns before it, if any. `attacked` is the
    request inside an attack when the source pairs them itself (SafeEdit), with the types of that
    attack and its name where it has one, else None.
    """

    id: str
    request: str
    refusal: str | None = None
    kind: str = ""
    split: str | None = None
    attacked: Prompt | None = None
    attack_types: tuple[str, ...] = ()
    attack: str = ""
    before: tuple[Turn, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an empty request."""
        _require(self.request, "request", f"harmful request {self.id}")

    @property
    def prompt(self) -> Prompt:
        """What the model is asked."""
        return prompt_of(self.request, self.before)


@dataclass(frozen=True)
class HarmlessRequest:
    """A request to answer; `sounds_harmful` marks those that only sound like the other kind.

    `request` is the user's last message, `before` the turns before it, if any.
    """

    id: str
    request: str
    answer: str | None = None
    sounds_harmful: bool = False
    split: str | None = None
    before: tuple[Turn, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an empty request."""
        _require(self.request, "request", f"harmless request {self.id}")

    @property
    def prompt(self) -> Prompt:
        """What the model is asked."""
        return prompt_of(self.request, self.before)


@dataclass(frozen=True)
class AttackTemplate:
    """A jailbreak wrapper: `text` holds the literal slot "{request}" at least once."""

    id: str
    text: str
    types: tuple[str, ...] = ()
    split: str | None = None

    def __post_init__(self) -> None:
        """Refuse a text without a slot."""
        if SLOT not in self.text:
            raise DataError(
                f"attack template {self.id}: the text has no slot. "
                f"Write {SLOT} where the request belongs."
            )

    def apply(self, request: Prompt) -> Prompt:
        """The text with the request in its slot, behind the turns before it.

        Other braces, on either side, stay as they are.
        """
        return with_text(request, self.text.replace(SLOT, text_of(request)))


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with lettered choices, of which number `key` (counted from 0) is right."""

    id: str
    request: str
    choices: tuple[str, ...]
    key: int
    subject: str = ""
    split: str | None = None

    def __post_init__(self) -> None:
        """Refuse a question without choices, or whose answer is none of them."""
        if not 2 <= len(self.choices) <= len(LETTERS):
            raise DataError(
                f"question {self.id}: {len(self.choices)} choices. Give 2 to {len(LETTERS)}."
            )
        if not 0 <= self.key < len(self.choices):
            raise DataError(
                f"question {self.id}: answer {self.key} is none of its {len(self.choices)} "
                "choices, which are counted from 0."
            )
