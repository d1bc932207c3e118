"""Separation is what counting pairs gives, of log-likelihoods of each prompt's refusals alone."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.config.method import TuneConfig
from nt_jax.data.openings import HELD_OUT, TOKENS
from nt_jax.data.packing import Row
from nt_jax.train.memory import GradientMemory, Together
from nt_jax.train.own_answers import measured_wordings
from nt_jax.train.separation import PAIRS, Separation, auc
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.validate import ATTACK, DIRECT, HARMLESS, IN_ATTACK, SOUNDS_HARMFUL, Validation
from tests.train.slow import arrays, of_arrays
from tests.train.test_maml import NEURONS, THETA, model

DECAY = 0.8
# Lengths that do not go up: packing puts the longest first.
PROMPTS = {
    ATTACK: ["aa1", "a2", "aaaaaaa3"], DIRECT: ["d1", "dddd2"], HARMLESS: ["h1", "hhh2", "hh3"],
    SOUNDS_HARMFUL: ["s1"], IN_ATTACK: ["iiiii1", "i2"],
}  # fmt: skip
TUNE = TuneConfig(token_decay=DECAY)


def ids(text: str) -> list[int]:
    return [3 + ord(letter) % 37 for letter in text]


@pytest.fixture
def chat():
    """What separation needs of a chat model: a token a letter."""
    answer_ids = lambda text: [*ids(text), 2]  # noqa: E731
    return SimpleNamespace(encode=ids, answer_ids=answer_ids, lm=model(jnp.float64))


@pytest.fixture
def made(x64, chat, monkeypatch):
    monkeypatch.setattr(GradientMemory, "tuning", lambda *_: Together(40, 1, False))
    tuned = TunedLayers.of(chat.lm, NEURONS)
    return Separation.of(chat, tuned, Validation(PROMPTS, PROMPTS), TUNE, measured_wordings(chat))


def alone(chat, prompt: str) -> float:
    """The mean log-likelihood per token of the refusals of one prompt, by a plain model."""
    each = [
        -of_arrays(THETA, chat.lm, NEURONS, *arrays([Row(ids(prompt), ids(text)[:TOKENS])], DECAY))[
            0
        ]
        for text in HELD_OUT
    ]
    return float(sum(each) / len(each))


def test_values_are_those_of_each_prompt_alone(made, chat):
    found = made.values(jnp.asarray(THETA))
    assert set(found) == {ATTACK, DIRECT, HARMLESS, IN_ATTACK}
    expected = {kind: [alone(chat, prompt) for prompt in PROMPTS[kind]] for kind in found}
    for kind, values in expected.items():
        np.testing.assert_allclose(found[kind], values, rtol=1e-9)
    rates = made.at(jnp.asarray(THETA))
    for kind, values in expected.items():
        assert rates[f"opening_{kind}"] == pytest.approx(np.mean(values), rel=1e-9)
    for name, (higher, lower) in PAIRS.items():
        larger = [a > b for a in expected[higher] for b in expected[lower]]
        assert rates[f"separation_{name}"] == pytest.approx(np.mean(larger))


def test_pairs_without_prompts_on_either_side_are_left_out(x64, chat):
    some = {kind: PROMPTS[kind] for kind in (ATTACK, HARMLESS)} | {DIRECT: []}
    tuned = TunedLayers.of(chat.lm, NEURONS)
    wordings = measured_wordings(chat)
    made = Separation.of(chat, tuned, Validation(some, some), TUNE, wordings)
    found = made.at(jnp.asarray(THETA))
    assert set(found) == {f"opening_{ATTACK}", f"opening_{HARMLESS}"}


few = st.lists(st.integers(-3, 3), min_size=1, max_size=9)


@given(higher=few, lower=few)
def test_the_area_is_the_share_of_pairs_in_order_and_ties_count_half(higher, lower):
    points = 0.0
    for a in higher:
        for b in lower:
            points += 1 if a > b else 0.5 if a == b else 0
    found = auc(np.array(higher, float), np.array(lower, float))
    assert found == pytest.approx(points / (len(higher) * len(lower)))


def test_what_is_measured_is_never_learned():
    assert TuneConfig().opening not in HELD_OUT
