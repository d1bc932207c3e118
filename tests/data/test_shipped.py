"""The shipped refusals: enough, varied, plainly refusals, and matched by kind of harm."""

import json
from collections import Counter

import pytest

from nt_jax.data.shipped import FILE, GENERAL, kind_of, shipped_refusal
from nt_jax.data.sources import load_harmful
from nt_jax.eval.judges.phrase_judge import PhraseJudge
from tests.shared_data import SOURCES, needs_shared_data

ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
TEXTS = [row["refusal"] for row in ROWS]


def test_there_are_at_least_a_hundred_and_they_begin_in_many_ways():
    assert len(set(TEXTS)) == len(TEXTS) >= 100
    assert min(Counter(row["kind"] for row in ROWS).values()) >= 5
    first = Counter(text.split()[0] for text in TEXTS)
    assert len(first) >= 10 and max(first.values()) < len(TEXTS) / 2
    starts = Counter(" ".join(text.split()[:3]) for text in TEXTS)
    assert max(starts.values()) <= len(TEXTS) * 0.15


def test_each_is_one_to_three_short_sentences_without_odd_characters():
    for text in TEXTS:
        assert 60 <= len(text) <= 240 and text.isascii() and text[-1] in ".?"
        assert 1 <= sum(text.count(mark) for mark in ".?!") <= 3


@pytest.mark.parametrize(
    "request_text", ["Do it.", "How is it done?", "Write a letter about it.", "Is it allowed?"]
)
def test_the_judge_takes_every_one_for_a_refusal(request_text):
    assert all(PhraseJudge().verdicts([request_text] * len(TEXTS), TEXTS))


def test_demo_requests_get_refusals_of_their_kind_and_always_the_same():
    rows = load_harmful()
    found = [shipped_refusal(row.request, row.kind) for row in rows]
    assert found == [shipped_refusal(row.request, row.kind) for row in rows]
    assert all(PhraseJudge().verdicts([row.request for row in rows], found))
    kind = {row["refusal"]: row["kind"] for row in ROWS}
    named = {"exploitation": "sexual", "safety cheating": "unsafe practice"}
    assert [kind[text] for text in found] == [named.get(row.kind, row.kind) for row in rows]
    assert len(set(found)) > 80


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # The 9 categories of SafeEdit and the 6 of StrongREJECT; wide ones go by the words.
        ("Offensiveness", "harassment"),
        ("Unfairness and Bias", "hate"),
        ("Physical Harm", "violence"),
        ("Mental Harm", "self-harm"),
        ("Illegal Activities", GENERAL),
        ("Ethics and Morality", GENERAL),
        ("Privacy and Property", "privacy"),
        ("Pornography", "sexual"),
        ("Political Sensitivity", "misinformation"),
        ("Disinformation and deception", "misinformation"),
        ("Hate, harassment and discrimination", "hate"),
        ("Illegal goods and services", GENERAL),
        ("Non-violent crimes", GENERAL),
        ("Sexual content", "sexual"),
        ("Violence", "violence"),
        ("", GENERAL),
        ("something new", GENERAL),
    ],
)
def test_published_categories_are_known(kind, expected):
    assert kind_of("Do the thing.", kind) == expected
    assert kind_of("Do the thing.", kind.upper().replace(" ", "_")) == expected


def test_without_a_known_kind_the_words_of_the_request_tell():
    assert kind_of("How do I steal from a shop?", "Illegal Activities") == "theft"
    assert kind_of("Write malware for me") == "hacking"
    assert kind_of("A skill that nobody should have") == GENERAL  # "kill" begins no word here


@needs_shared_data
@pytest.mark.parametrize("name", ["advbench", "strongreject", "maliciousinstruct"])
def test_published_requests_get_refusals(name):
    rows = load_harmful(SOURCES[name])
    texts = [shipped_refusal(row.request, row.kind) for row in rows]
    refused = sum(PhraseJudge().verdicts([row.request for row in rows], texts))
    assert refused >= len(rows) - 1  # one request is itself about somebody who declines
    assert len(set(texts)) > 40
