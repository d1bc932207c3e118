"""How much an answer says and how it repeats itself: entropies in bits, from the text alone.

An answer is cut into word tokens by `words`. The unigram entropy is the paper's "Entropy"; the
n-gram entropy, with the weights of EasyEdit, is what its printed "Fluency" fits.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

# Punctuation marks are tokens of their own and case is kept, as in nltk.word_tokenize, whose
# Penn Treebank habits these rules follow. docs/evaluation.md has the measured difference.
_TOKEN = re.compile(
    r"""
    \d++(?:[.,:/]\d++)*+(?!\w)               # 3.5   1,000   12:30
  | can(?=not\b) | (?<=can)not\b             # can   not   of cannot
  | \w+?(?=n['\u2019]t\b)                     # do      of don't
  | n['\u2019]t\b                             # n't     of don't
  | ['\u2019](?:s|m|d|ll|re|ve)\b             # 's      of it's
  | \w+(?:[-./_@&]\w+)*                      # word   well-known   and/or
  | \.{2,} | -{2,}                           # ...   --
  | [^\w\s]                                  # every other mark by itself
    """,
    re.VERBOSE | re.IGNORECASE,
)
NGRAM_WEIGHTS = {2: 2 / 3, 3: 4 / 3}
REPETITION_N = 4


def words(text: str) -> list[str]:
    """The word tokens of a text, punctuation marks included, case kept."""
    return _TOKEN.findall(text)


def entropy_of(items: Iterable[Hashable]) -> float:
    """Shannon entropy in bits of the items' relative frequencies; 0 without items."""
    counts = Counter(items).values()
    total = sum(counts)
    return sum(count / total * math.log2(total / count) for count in counts)


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n neighbouring tokens, in order; none if the text is shorter."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def unigram_entropy(text: str) -> float:
    """Entropy of an answer's word tokens in bits; 0 for an empty answer."""
    return entropy_of(words(text))


def ngram_entropy(text: str) -> float:
    """EasyEdit's fluency in bits: the mean of 2/3 x bigram and 4/3 x trigram entropy."""
    tokens = words(text)
    weighted = [weight * entropy_of(ngrams(tokens, n)) for n, weight in NGRAM_WEIGHTS.items()]
    return sum(weighted) / len(weighted)


def repetition_rate(text: str) -> float:
    """Share of an answer's 4-grams that occurred before in it, 0..1; 0 for short answers."""
    grams = ngrams(words(text), REPETITION_N)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def length_in_words(text: str) -> int:
    """Number of word tokens of an answer, punctuation marks included."""
    return len(words(text))


def mean_over_answers(metric: Callable[[str], float], answers: Sequence[str]) -> float:
    """Mean of a per-answer metric, empty answers counted; 0 without answers."""
    return math.fsum(metric(answer) for answer in answers) / len(answers) if answers else 0.0
