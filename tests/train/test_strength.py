"""The strongest factors within the limits are found by halving, and kept where they beat all."""

import dataclasses
import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.config.method import TuneConfig
from nt_jax.train import strength
from nt_jax.train.strength import calibrate, kept_strength, read_strengths
from nt_jax.train.tune import fresh_state
from nt_jax.train.validate import HARMLESS, Look, Validation
from tests.train.test_maml import NEURONS, THETA, model
from tests.train.test_validate import verdict

STRENGTHS = (1.2, 0.4, 1.0, 0.55, 0.85, 1.4, 0.7)  # as they come: halving puts them in order
CONFIG = TuneConfig(strengths=STRENGTHS)
BASE = Look(
    {"refusal_attack": 0.0, "refusal_direct": 0.0, "perplexity": 9.0}, {HARMLESS: verdict(150, 0)}
)


def calibrated(tmp_path, monkeypatch, limit: float, config=CONFIG, known=None, **given):
    """(the state afterwards, the strengths that were looked at), where past `limit` is too far.

    Refusals of harm rise with the strength; past the limit those of harmless requests do.
    """
    looked = []

    def validate(chat, judge, prompts, scale_LF):
        at = float(scale_LF[NEURONS.layer_P[0], NEURONS.index_P[0]])
        looked.append(round((at - 1) / (THETA[0] - 1), 6))
        rate = looked[-1] / 2
        rates = {"refusal_attack": rate, "refusal_direct": rate + 0.1, "perplexity": 9.0}
        return Look(rates, {HARMLESS: verdict(150, 60 if looked[-1] > limit else 0)})

    monkeypatch.setattr(strength, "validate", validate)
    state = fresh_state(config, NEURONS)
    last_P = jnp.asarray(THETA, jnp.float32)
    state = dataclasses.replace(state, average_P=last_P, epoch=7, **given)
    prompts = Validation({}, {})
    chat = SimpleNamespace(lm=model())
    rest = (config, None, state, BASE, tmp_path, known)
    return calibrate(chat, NEURONS, prompts, *rest), looked


def marked(state, folder, config=CONFIG) -> list[dict]:
    return read_strengths(folder, kept_strength(NEURONS, state, config, folder))


def at(share: float) -> np.ndarray:
    return 1 + share * (THETA - 1)


@pytest.mark.parametrize("limit", [0.4, 0.55, 0.7, 0.85, 1.0, 1.2, 1.4])
def test_the_strongest_within_the_limits_is_found_in_three_looks_of_seven(
    tmp_path, monkeypatch, limit
):
    state, looked = calibrated(tmp_path, monkeypatch, limit)
    assert len(looked) == len(set(looked)) == 3 and looked[0] == 0.85 and limit in looked
    np.testing.assert_allclose(state.best_P, at(limit), rtol=1e-6)
    assert int(state.best_epoch) == 7 and float(state.best_score) == np.float32(limit / 2)
    log = [json.loads(line) for line in (tmp_path / "strengths.jsonl").read_text().splitlines()]
    assert [row["strength"] for row in log] == looked
    assert [row["score"] >= 0 for row in log] == [each <= limit for each in looked]


def test_where_all_are_past_the_limits_the_one_that_comes_nearest_is_kept(tmp_path, monkeypatch):
    state, looked = calibrated(tmp_path, monkeypatch, 0.0)
    assert looked == [0.85, 0.55, 0.4] and float(state.best_score) < -1
    np.testing.assert_allclose(state.best_P, at(0.85), rtol=1e-6)  # all as far: it refuses most


def test_an_epoch_that_scores_better_stays(tmp_path, monkeypatch):
    kept = {"best_P": jnp.full(len(NEURONS), 2.0), "best_epoch": 3, "best_score": 0.5}
    state, _ = calibrated(tmp_path, monkeypatch, 0.85, **kept)
    assert (int(state.best_epoch), float(state.best_score)) == (3, 0.5)
    np.testing.assert_array_equal(state.best_P, kept["best_P"])
    state, _ = calibrated(tmp_path, monkeypatch, 1.2, **kept)
    np.testing.assert_allclose(state.best_P, at(1.2), rtol=1e-6)


def test_the_kept_strength_is_marked_among_those_that_were_tried(tmp_path, monkeypatch):
    state, looked = calibrated(tmp_path, monkeypatch, 1.0)
    rows = marked(state, tmp_path)
    assert [row["strength"] for row in rows] == looked
    assert [row["strength"] for row in rows if row.get("kept")] == [1.0]
    kept = {"best_P": jnp.full(len(NEURONS), 2.0), "best_epoch": 7, "best_score": 0.9}
    state, _ = calibrated(tmp_path, monkeypatch, 1.0, **kept)
    assert not any(row.get("kept") for row in marked(state, tmp_path))
    assert read_strengths(tmp_path / "none") == []


def test_of_two_with_one_score_the_one_whose_factors_are_kept_is_marked(tmp_path, monkeypatch):
    """The last epoch's own validation scored what a strength did: its factors stay."""
    config = TuneConfig(strengths=(0.5,), validate_every=1)
    kept = {"best_P": jnp.asarray(THETA, jnp.float32), "best_epoch": 7, "best_score": 0.25}
    state, looked = calibrated(tmp_path, monkeypatch, 1.0, config, **kept)
    assert looked == [0.5] and kept_strength(NEURONS, state, config, tmp_path) == 1.0
    assert not any(row.get("kept") for row in marked(state, tmp_path, config))


@pytest.mark.parametrize(("every", "looks"), [(0, [1.0]), (5, [])])
def test_without_strengths_the_factors_are_looked_at_once_in_all(
    tmp_path, monkeypatch, every, looks
):
    config = TuneConfig(strengths=(), validate_every=every)
    _, looked = calibrated(tmp_path, monkeypatch, 9.0, config)
    assert looked == looks


def test_factors_stay_within_their_bounds(tmp_path, monkeypatch):
    config = TuneConfig(strengths=(1.0,), factor_min=0.9, factor_max=1.2)
    state, _ = calibrated(tmp_path, monkeypatch, 9.0, config)
    np.testing.assert_allclose(state.best_P, np.clip(THETA, 0.9, 1.2), rtol=1e-6)


@pytest.mark.parametrize("strengths", [(), (1.0, 1.2), (0.4, 1.4)])
def test_what_was_seen_as_a_lift_is_a_candidate_whatever_halving_meets(
    tmp_path, monkeypatch, strengths
):
    known = {"score": 0.9, "lift": 0.6}  # strength 1, and better than any other of these
    config = TuneConfig(strengths=strengths)
    state, looked = calibrated(tmp_path, monkeypatch, 9.0, config, known)
    np.testing.assert_allclose(state.best_P, THETA, rtol=1e-6)
    assert float(state.best_score) == np.float32(0.9) and 1.0 not in looked
    rows = marked(state, tmp_path, config)
    assert [row for row in rows if row.get("kept")] == [rows[0]]
    assert (rows[0]["strength"], rows[0]["lift"]) == (1.0, 0.6)
