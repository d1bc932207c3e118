import pytest

from nt_jax.eval.metrics import entropy, text
from nt_jax.eval.metrics.result import Measurements, find
from tests.made_up import made_up_answers

ANSWERS = made_up_answers()


@pytest.mark.parametrize(
    ("metric", "function"),
    [
        ("entropy", entropy.unigram_entropy),
        ("ngram_entropy", entropy.ngram_entropy),
        ("mean_length", entropy.length_in_words),
        ("repetition", entropy.repetition_rate),
    ],
)
def test_text_metrics_are_means_over_answers(metric, function):
    rows = text.rows(Measurements(ANSWERS, judges={"phrases-v2": "0" * 64}))
    for dataset, model in (("demo_harmless", "base"), ("demo_attack", "tuned")):
        texts = [
            answer["answer"]
            for answer in ANSWERS
            if (answer["dataset"], answer["model"]) == (dataset, model)
        ]
        row = find(rows, dataset, metric, model)
        assert row.value == pytest.approx(entropy.mean_over_answers(function, texts))
        assert row.low <= row.value <= row.high and row.n == len(texts)
        assert row.judge is None
