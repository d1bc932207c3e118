"""Margins are those of each row alone, and separation is what counting pairs gives."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.config.method import TuneConfig
from nt_jax.data.packing import Row
from nt_jax.train.margins import Margins
from nt_jax.train.memory import GradientMemory
from nt_jax.train.tuned_layers import TunedLayers
from nt_jax.train.validate import Validation
from tests.train.slow import arrays, of_arrays
from tests.train.test_maml import NEURONS, THETA, model

DECAY, WIDTH = 0.8, 3
PROMPTS = Validation(asked=["d0", "d1"], attacked=["a0", "a1"], harmless=["h0", "h1", "h2"])
OWN = [[5, 6, 7, 8], [9, 4], [5], [], [7, 3, 3], [4, 4], [8, 9, 5]]  # d1 has no answer at all
REFUSED = [False, True, False, False, False, False, False]  # a1 refuses by itself
REFUSALS = [[10, 11, 12, 13], [14, 15]]


JUDGE = SimpleNamespace(verdicts=lambda asked, answers: REFUSED)
TUNE = TuneConfig(answer_tokens=WIDTH, token_decay=DECAY)


@pytest.fixture
def chat():
    """What margins need of a chat model."""
    encode = lambda text: [3 + ord(text[0]) % 20, 3 + int(text[1])]  # noqa: E731
    return SimpleNamespace(
        encode=encode, text=lambda ids: " ".join(map(str, ids)), lm=model(jnp.float64)
    )


@pytest.fixture
def made(x64, chat, monkeypatch):
    monkeypatch.setattr(GradientMemory, "tuning", lambda *_: (16, False, 0.0))
    tuned = TunedLayers.of(chat.lm, NEURONS)
    return Margins.of(chat, JUDGE, tuned, PROMPTS, OWN, REFUSALS, TUNE)


def alone(chat, place: int, refusal: list[int]) -> float:
    """A row's margin by a plain model."""
    prompt = chat.encode(PROMPTS.every[place])
    both = [
        -of_arrays(THETA, chat.lm, NEURONS, *arrays([Row(prompt, ids[:WIDTH])], DECAY))[0]
        for ids in (OWN[place], refusal)
    ]
    return float(both[1] - both[0])


def test_margins_are_those_of_rows_alone(made, chat):
    found = made.at(jnp.asarray(THETA))
    attack, direct = [alone(chat, 0, REFUSALS[0])], [alone(chat, 2, REFUSALS[0])]
    harmless = [alone(chat, 4 + n, REFUSALS[n % 2]) for n in range(3)]
    expected = {"attack": attack, "direct": direct, "harmless": harmless}
    for kind, values in expected.items():
        assert found[f"margin_{kind}"] == pytest.approx(np.mean(values), rel=1e-9)
    for kind in ("attack", "direct"):
        larger = [a > b for a in expected[kind] for b in harmless]
        assert found[f"separation_{kind}"] == pytest.approx(np.mean(larger))


def test_separation_needs_both_kinds_and_counts_ties_half(made):
    same = Margins(made.tuned, DECAY, dict.fromkeys(("direct", "harmless"), made.batches["attack"]))
    assert same.at(jnp.asarray(THETA))["separation_direct"] == 0.5
    only = Margins(made.tuned, DECAY, {"harmless": made.batches["harmless"]})
    assert set(only.at(jnp.asarray(THETA))) == {"margin_harmless"}
