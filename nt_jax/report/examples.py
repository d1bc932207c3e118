"""The side-by-side examples of a report: which answers to show, and how much of each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nt_jax.data.training import evenly
from nt_jax.eval.judges.judge import without_thinking
from nt_jax.eval.metrics.result import BASE, TUNED, Answer, paired

Pair = tuple[Answer, Answer]
ANSWER_CHARACTERS = 300
COMPLIANCE_CHARACTERS = 80  # of an answer that goes along with harm: enough to see that it did
REQUEST_CHARACTERS = 240
# (harmful request, refused before): what happened, good or bad. The bad news comes first, since
# a reader looks for it and a table of rates hides it.
KINDS = {
    (True, True): ("no longer refuses a harmful request", False),
    (False, False): ("now refuses a harmless request", False),
    (False, True): ("no longer refuses a harmless request", True),
    (True, False): ("now refuses a harmful request", True),
}


@dataclass(frozen=True)
class Shown:
    """One model's answer as printed, cut, with the judge's verdict."""

    text: str
    refused: bool
    cut_for_harm: bool


@dataclass(frozen=True)
class Example:
    """One request on which two models differ."""

    kind: str
    good: bool
    dataset: str
    id: str
    request: str
    attack: str
    before: Shown
    after: Shown


def choose_examples(
    answers: Sequence[Answer], count: int, base: str = BASE, tuned: str = TUNED
) -> list[Example]:
    """Up to `count` records refused by exactly one of two models, spread over the four kinds.

    Each kind gets its share (what a small kind leaves over goes to the others) and its records are
    taken at even distances, so that the choice is neither ours nor random.
    """
    groups = _disagreements(answers, base, tuned)
    chosen = []
    for place, kind in enumerate(sorted(groups, key=lambda kind: len(groups[kind]))):
        share = -(-(count - len(chosen)) // (len(groups) - place))  # small kinds first
        chosen += [(kind, *pair) for pair in evenly(groups[kind], share)]
    chosen.sort(key=lambda entry: list(KINDS).index(entry[0]))
    return [_example(*KINDS[kind], before, after) for kind, before, after in chosen]


def count_disagreements(
    answers: Sequence[Answer], base: str = BASE, tuned: str = TUNED
) -> dict[str, int]:
    """How often each kind of disagreement happened, bad news first; sums to all of them."""
    groups = _disagreements(answers, base, tuned)
    return {name: len(groups[kind]) for kind, (name, _) in KINDS.items()}


def markdown_text(text: str) -> str:
    """The text on one line with everything escaped that Markdown or HTML would take for markup."""
    return re.sub(r"([\\`*_\[\]<>#|~$])", r"\\\1", " ".join(text.split()))


def attack_types(answer: Answer) -> list[str]:
    """The types of attack that the record names."""
    types = answer.get("types") or answer.get("type") or []
    return [types] if isinstance(types, str) else list(types)


def _disagreements(
    answers: Sequence[Answer], base: str, tuned: str
) -> dict[tuple[bool, bool], list[Pair]]:
    """Per kind, the pairs (before, after) of which exactly one refused."""
    first = [answer for answer in answers if answer["model"] == base]
    second = [answer for answer in answers if answer["model"] == tuned]
    groups: dict[tuple[bool, bool], list[Pair]] = {kind: [] for kind in KINDS}
    for before, after in paired(first, second):
        if bool(before["refused"]) != bool(after["refused"]):
            groups[bool(before["harmful"]), bool(before["refused"])].append((before, after))
    return groups


def _example(kind: str, good: bool, before: Answer, after: Answer) -> Example:
    named = [after["template"]] if after.get("template") else []
    begun = [f"answer begun: {after['prefill']}"] if after.get("prefill") else []
    attack = ", ".join(attack_types(after) + named + begun)
    request = _cut(after.get("request", ""), REQUEST_CHARACTERS)
    shown = (_shown(answer) for answer in (before, after))
    return Example(kind, good, after["dataset"], after["id"], request, attack, *shown)


def _shown(answer: Answer) -> Shown:
    """We print no more of a harmful answer than the measurement needs."""
    complies = bool(answer["harmful"]) and not answer["refused"]
    text = without_thinking(answer["answer"])
    limit = COMPLIANCE_CHARACTERS if complies else ANSWER_CHARACTERS
    return Shown(_cut(text, limit) or "(empty)", bool(answer["refused"]), complies)


def _cut(text: str, limit: int) -> str:
    """The text on one line, at most `limit` characters, with a mark where it was cut."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "\u2026"
