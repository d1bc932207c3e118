"""KL as rows; the numbers themselves are compared with torch in tests/generate."""

import dataclasses

import numpy as np
import pytest

from nt_jax.eval.metrics import divergence
from nt_jax.eval.metrics.intervals import bootstrap
from nt_jax.eval.metrics.result import Measurements
from nt_jax.eval.under_test import ModelUnderTest
from nt_jax.generate.chat import open_model
from nt_jax.generate.intervention import Suffixed
from tests import tiny

PAIRS = [[3.0, 4], [0.5, 10], [2.0, 6]]  # nats and tokens of three answers


def test_kl_is_nats_per_token_and_names_the_base_model():
    scores = {"kl": {"values": {"tuned": {"alpaca": PAIRS}}, "by": ["a/model", "f" * 64]}}
    [row] = divergence.rows(Measurements(scores=scores, seed=3))
    assert (row.dataset, row.metric, row.model) == ("alpaca", "kl", "tuned")
    assert row.value == pytest.approx(5.5 / 20) and row.n == 3
    per_token = lambda means: means[0][0] / means[0][1]  # noqa: E731
    assert (row.low, row.high) == pytest.approx(bootstrap([np.array(PAIRS)], per_token, 3))
    assert (row.judge, row.judge_sha256) == ("a/model", "f" * 64)
    assert divergence.rows(Measurements()) == []


def test_only_weights_over_one_vocabulary_are_compared():
    model = open_model(str(tiny.checkpoint("llama2")))
    base = ModelUnderTest("base", model)
    other = ModelUnderTest("other", open_model(str(tiny.checkpoint("smollm2"))))
    assert divergence.comparable(base, ModelUnderTest("tuned", model))
    assert divergence.comparable(base, other)  # another checkpoint, the same tokens
    steered = ModelUnderTest("suffixed", model, intervention=Suffixed("Be safe.", model.encode))
    assert not divergence.comparable(base, steered)
    config = dataclasses.replace(model.checkpoint.config, vocab_size=7)
    fewer = dataclasses.replace(
        other.model, checkpoint=dataclasses.replace(other.model.checkpoint, config=config)
    )
    assert not divergence.comparable(base, ModelUnderTest("other", fewer))
