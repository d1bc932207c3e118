"""What the text of answers says by itself: entropies, length, repetition."""

from nt_jax.eval.metrics import entropy, intervals
from nt_jax.eval.metrics.result import Column, Measurements, ResultRow, per_request

FUNCTIONS = {
    "entropy": entropy.unigram_entropy,
    "ngram_entropy": entropy.ngram_entropy,
    "mean_length": entropy.length_in_words,
    "repetition": entropy.repetition_rate,
}
COLUMNS = {
    "entropy": Column("entropy, bits", "{:.3f}"),
    "ngram_entropy": Column("n-gram entropy, bits", "{:.3f}"),
    "mean_length": Column("length, words", "{:.1f}"),
    "repetition": Column("repeated 4-grams", "{:.1%}"),
}


def rows(measured: Measurements) -> list[ResultRow]:
    """Means over the answers of each test set and model, with bootstrap intervals."""
    found = []
    for (dataset, model), group in measured.groups.items():
        for metric, function in FUNCTIONS.items():
            values = per_request(group, [function(answer["answer"]) for answer in group])
            low, high = intervals.bootstrap_mean(values, measured.seed)
            mean = float(values.mean())
            found.append(ResultRow(dataset, metric, model, mean, len(group), low, high))
    return found
