"""Entropies against nltk + EasyEdit's formula (stored numbers), a brute-force oracle, and laws."""

import itertools
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.eval.metrics import entropy

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "entropy_texts.json").read_text())
TOKENS = st.lists(st.sampled_from(["alpha", "beta", "gamma", "delta", "eps"]), max_size=40)


def brute_force(items: list) -> float:
    """-sum p log2 p with p counted item by item."""
    share = [items.count(item) / len(items) for item in items]
    return -sum(math.log2(p) for p in share) / len(items) if items else 0.0


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: row["text"][:20])
def test_equals_nltk_tokens_and_easyedit_fluency(row):
    assert entropy.words(row["text"]) == row["words"]
    assert entropy.unigram_entropy(row["text"]) == pytest.approx(row["entropy"], abs=1e-12)
    assert entropy.ngram_entropy(row["text"]) == pytest.approx(row["ngram_entropy"], abs=1e-12)


def test_known_values():
    assert entropy.unigram_entropy("a b a b") == 1.0
    assert entropy.unigram_entropy("one two three four") == 2.0
    # 3 bigrams (2 kinds: 2/3, 1/3), 2 different trigrams
    bigram = -(2 / 3) * math.log2(2 / 3) - (1 / 3) * math.log2(1 / 3)
    assert entropy.ngram_entropy("a b a b") == pytest.approx(bigram / 3 + 2 * 1.0 / 3)


@pytest.mark.parametrize("text", ["", "   \n", "word"])
def test_texts_too_short_for_ngrams(text):
    assert entropy.ngram_entropy(text) == 0.0
    assert entropy.unigram_entropy(text) == 0.0
    assert entropy.repetition_rate(text) == 0.0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't stop!", ["Do", "n't", "stop", "!"]),
        ("I don\u2019t", ["I", "do", "n\u2019t"]),
        ("cannot", ["can", "not"]),
        ("the well-known 3.5 and 1,000...", ["the", "well-known", "3.5", "and", "1,000", "..."]),
        ("the 4th", ["the", "4th"]),
        ("\u4f60\u597d \u4e16\u754c", ["\u4f60\u597d", "\u4e16\u754c"]),
    ],
)
def test_tokens(text, tokens):
    assert entropy.words(text) == tokens


@given(TOKENS)
def test_entropy_equals_brute_force_and_stays_in_bounds(tokens):
    bits = entropy.unigram_entropy(" ".join(tokens))
    assert bits == pytest.approx(brute_force(tokens), abs=1e-9)
    assert 0.0 <= bits <= math.log2(max(len(set(tokens)), 1)) + 1e-9


@given(TOKENS)
def test_ngram_entropy_equals_brute_force(tokens):
    pairs = list(itertools.pairwise(tokens))
    triples = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    expected = brute_force(pairs) / 3 + 2 * brute_force(triples) / 3
    assert entropy.ngram_entropy(" ".join(tokens)) == pytest.approx(expected, abs=1e-9)


@given(TOKENS, st.randoms())
def test_order_of_words_does_not_matter_to_unigrams(tokens, random):
    shuffled = tokens[:]
    random.shuffle(shuffled)
    bits = [entropy.unigram_entropy(" ".join(text)) for text in (tokens, shuffled)]
    assert bits[0] == pytest.approx(bits[1], abs=1e-12)


@given(st.text())
def test_any_text_is_measurable(text):
    tokens = entropy.words(text)
    assert "".join(tokens) == "".join(token for token in tokens if token.strip())
    assert sum(map(len, tokens)) == len("".join(text.split()))  # nothing lost, nothing doubled
    assert 0.0 <= entropy.repetition_rate(text) <= 1.0


def test_repetition_and_length():
    assert entropy.repetition_rate("a b c d e f g h") == 0.0
    assert entropy.repetition_rate("go " * 10) == pytest.approx(6 / 7)  # 7 four-grams, one kind
    assert entropy.length_in_words("It is 3.5, not 4.") == 7


def test_mean_counts_empty_answers():
    assert entropy.mean_over_answers(entropy.unigram_entropy, ["a b", ""]) == 0.5
    assert entropy.mean_over_answers(entropy.unigram_entropy, []) == 0.0
