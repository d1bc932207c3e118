"""SCANS against numpy on the states of the torch model."""

import dataclasses

import numpy as np
import pytest

from nt_jax.baselines.scans import (
    Scans,
    ScansOptions,
    fit_scans,
    harm_scores,
    middle_third,
    published_layers,
)
from nt_jax.errors import DataError
from tests import plain
from tests.baselines import made_up
from tests.baselines.made_up import SURE

FAMILIES = ("qwen2", "llama3")
EXAMPLES = made_up.examples(10, harmful=6, harmless=5)
OPTIONS = ScansOptions(steer=(0, 2), batch_size=4)


def fitted(family: str = "qwen2", **changes):
    lm = made_up.model(family)
    options = dataclasses.replace(OPTIONS, **changes)
    return lm, fit_scans(lm, lm.ones_LF, EXAMPLES, SURE, options)


def ends(family: str, prompts) -> tuple[np.ndarray, np.ndarray]:
    """(states at the prompts' last token, at the end of "Sure" behind them), each [R, L, D]."""
    states = [made_up.states(family, [*ids, *SURE]) for ids in prompts]
    first = [state_LTD[:, len(ids) - 1] for state_LTD, ids in zip(states, prompts, strict=True)]
    return np.stack(first), np.stack([state_LTD[:, -1] for state_LTD in states])


def cosine(a, b) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("family", FAMILIES)
def test_directions_and_reference_are_those_of_the_anchors(family):
    pytest.importorskip("torch")
    _, fit = fitted(family)
    (harmful, after), (harmless, _) = (
        ends(family, EXAMPLES.harmful),
        ends(family, EXAMPLES.harmless),
    )
    for layer in range(2):
        way = harmful[:, layer].mean(axis=0) - harmless[:, layer].mean(axis=0)
        np.testing.assert_allclose(
            fit.direction_LD[layer], way / np.sqrt((way**2).sum()), atol=1e-4
        )
        lengths = [np.sqrt((h**2).sum()) for h in (*harmful[:, layer], *harmless[:, layer])]
        assert fit.norm_L[layer] == pytest.approx(np.median(lengths), rel=1e-4)
    np.testing.assert_allclose(fit.move_LD, (harmful - after).mean(axis=0), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [(0, 2), (0, 1), (1, 2)])
def test_scores_are_mean_cosines_of_the_move_under_sure(family, layers):
    pytest.importorskip("torch")
    lm, fit = fitted(family, steer=(layers[0], 2), score_stop=layers[1])
    assert fit.score == layers
    prompts = made_up.rows(20, 5, longest=40)
    first, last = ends(family, prompts)
    first_h, last_h = ends(family, EXAMPLES.harmful)
    reference_LD = (first_h - last_h).mean(axis=0)
    expected = [
        np.mean([cosine((f - s)[n], reference_LD[n]) for n in range(*layers)])
        for f, s in zip(first, last, strict=True)
    ]
    found_R = harm_scores(lm, lm.ones_LF, fit, prompts, batch_size=3)
    np.testing.assert_allclose(found_R, expected, atol=1e-4)


def test_prompts_are_pushed_to_refusal_above_the_threshold_and_away_from_it_below():
    lm, fit = fitted(steer=(1, 2))
    prompts = made_up.rows(21, 6)
    score_R = harm_scores(lm, lm.ones_LF, fit, prompts)
    threshold = float(np.median(score_R))
    made = Scans(fit, threshold, strength=0.25).prepare(lm, lm.ones_LF, prompts, [""] * 6)
    assert made.prompts == prompts
    assert made.steer_RLD.dtype == np.float32
    np.testing.assert_array_equal(made.flagged_R, score_R > threshold)
    assert 0 < made.flagged_R.sum() < 6
    assert not made.steer_RLD[:, 0].any()
    for steer_LD, flagged in zip(made.steer_RLD, made.flagged_R, strict=True):
        assert np.linalg.norm(steer_LD[1]) == pytest.approx(0.25 * fit.norm_L[1], rel=1e-5)
        assert cosine(steer_LD[1], fit.direction_LD[1]) == pytest.approx(1 if flagged else -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_absolute_strength_is_added_as_it_is_whatever_the_states_norm(family):
    """The steered state, by numpy on torch's states: h + 3.5 unit directions, or minus."""
    pytest.importorskip("torch")
    lm, fit = fitted(family, steer=(1, 2))
    prompts = made_up.rows(21, 6)
    (harmful, _), (harmless, _) = ends(family, EXAMPLES.harmful), ends(family, EXAMPLES.harmless)
    way_D = harmful[:, 1].mean(axis=0) - harmless[:, 1].mean(axis=0)
    state_RD = ends(family, prompts)[0][:, 1]
    threshold = float(np.median(harm_scores(lm, lm.ones_LF, fit, prompts)))
    made = Scans(fit, threshold, 3.5, absolute=True).prepare(lm, lm.ones_LF, prompts, [""] * 6)
    sign_R = np.where(made.flagged_R, 1, -1)
    expected_RD = state_RD + sign_R[:, None] * 3.5 * way_D / np.sqrt((way_D**2).sum())
    np.testing.assert_allclose(state_RD + made.steer_RLD[:, 1], expected_RD, atol=1e-3)
    assert abs(np.median(np.linalg.norm(state_RD, axis=-1)) - 1) > 0.1  # no norm hides in it
    assert not made.steer_RLD[:, 0].any()


def test_the_released_layers_are_10_to_19_of_32():
    assert [published_layers(n) for n in (32, 28, 48, 30, 2, 1)] == [
        (10, 20), (9, 18), (15, 30), (9, 19), (1, 2), (0, 1),
    ]  # fmt: skip


def test_the_middle_third():
    assert [middle_third(n) for n in (32, 28, 48, 30, 3, 2, 1)] == [
        (10, 21), (9, 19), (16, 32), (10, 20), (1, 2), (0, 1), (0, 1),
    ]  # fmt: skip
    lm = plain.random_model()
    fit = fit_scans(lm, lm.ones_LF, made_up.examples(vocab=40), [7])
    assert (fit.steer, fit.score) == ((1, 2), (1, 3))


def test_anchors_are_a_seeded_choice_of_the_given_number():
    fits = [fitted(anchors=3, seed=seed)[1].direction_LD for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert np.abs(fits[0] - fits[2]).max() > 1e-3


@pytest.mark.parametrize("change", [{"steer": (1, 3)}, {"steer": (1, 1)}, {"score_stop": 9}])
def test_layers_that_are_not_there_are_refused(change):
    with pytest.raises(DataError, match="cannot steer or score layers"):
        fitted(**change)
