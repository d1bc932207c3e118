"""Scores that are not finite, or of a change that is rounding alone, choose no neuron."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.attribution.find import over_examples
from nt_jax.attribution.gradient import gradient_times_activation
from nt_jax.attribution.integrated import integrated_gradients
from nt_jax.attribution.score import Attribution, EncodedExample, Options
from nt_jax.attribution.signal import (
    MOST_STEPS,
    check_example,
    check_scores,
    halves,
    large_error,
    low_overlap,
    split_half,
)
from nt_jax.config.method import AttributionConfig
from nt_jax.errors import DataError
from nt_jax.models.transformer import assemble
from nt_jax.run.contrast import check_slopes
from nt_jax.train.cell_slopes import CellSlopes
from nt_jax.train.cells import CELLS, OWN
from tests import plain

EXAMPLE = EncodedExample([5, 9, 3], [17, 30, 5, 9, 3, 22], [21, 6, 33], "safety")
FEW = Options(steps=2, answer_tokens=4)
LM = plain.random_model()


def with_down(change):
    """The model with the weights of down_proj changed in numpy."""
    leaves = plain.leaves_of(LM)
    (name,) = (path for path in leaves if path.endswith("mlp.down"))
    weights = np.array(leaves[name])
    change(weights)
    return assemble(LM.config, leaves | {name: jnp.asarray(weights)}, LM.mesh)


def huge(down_LFD: np.ndarray) -> None:
    down_LFD[0, 0, 0] = 3e38


def zero(down_LFD: np.ndarray) -> None:
    down_LFD[:] = 0


SCORES = {"integrated": integrated_gradients, "gradient": gradient_times_activation}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(
    ("change", "words"), [(huge, "are not finite"), (zero, "down_proj zero")], ids=["3e38", "0"]
)
def test_a_model_whose_scores_mean_nothing_is_refused(name, change, words):
    lm = with_down(change)
    with pytest.raises(DataError, match=words) as caught:
        over_examples(SCORES[name], FEW)(lm, [EXAMPLE])
    assert "safety example 0" in str(caught.value) and "\n" not in str(caught.value)
    over_examples(SCORES[name], FEW)(LM, [EXAMPLE])  # the checkpoint as it was downloaded again


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("path", ["layer", "joint"])
def test_a_sound_model_is_scored(name, path):
    how = dataclasses.replace(FEW, path=path)
    assert over_examples(SCORES[name], how)(LM, [EXAMPLE]).shape == (
        LM.config.layers,
        LM.config.neurons,
    )


def test_an_attack_that_adds_nothing_is_refused():
    bare = dataclasses.replace(EXAMPLE, attacked=EXAMPLE.question)
    with pytest.raises(DataError, match=r"its attack is the bare request: leave that template"):
        over_examples(integrated_gradients, FEW)(LM, [EXAMPLE, bare])


def made(end: float, start: tuple[float, float]) -> Attribution:
    """An attribution with these ends of its path, all else ones."""
    ones_LF = np.ones((2, 3), np.float32)
    return Attribution(
        ones_LF, ones_LF, "alpha", ones_LF, ones_LF, np.array(start, np.float32), end
    )


EPS = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("end", "start", "refused"),
    [
        (0.5, (0.5, 0.5), "same with and"),
        (0.5, (0.5 + 2 * EPS, 0.5 - 2 * EPS), "same with and"),
        (-24.0, (-24.0, -24.0 * (1 + 4 * EPS)), "same with and"),
        (0.0, (0.0, 0.0), "choose another attribution.target"),
        (0.5, (0.5, 0.5 * (1 + 20 * EPS)), None),  # one layer is enough
        (1e-30, (2e-30, 1e-30), None),
        (float("nan"), (0.1, 0.2), "are not finite"),
        (0.5, (float("inf"), 0.2), "are not finite"),
    ],
)
def test_what_counts_as_rounding(end, start, refused):
    def check() -> None:
        check_example(LM, EXAMPLE, made(end, start), "safety example 3", True)

    if refused is None:
        return check()
    with pytest.raises(DataError, match=refused):
        check()


def test_the_first_layer_that_is_not_finite_is_named():
    result = made(0.5, (0.1, 0.2))
    result.standard_LF[1, 2] = np.nan
    with pytest.raises(DataError, match=r"example 3 are not finite from layer 1 on: a weight or"):
        check_example(LM, EXAMPLE, result, "utility example 3", True)


@pytest.mark.parametrize("fill", [0.0, 2.5, float("nan"), float("inf")])
def test_a_score_of_a_whole_set_must_tell_neurons_apart(fill):
    score_LF = np.full((2, 3), fill, np.float32)
    with pytest.raises(DataError, match=r"attribution: the safety scores of m:f are"):
        check_scores(score_LF, "the safety scores of m:f")
    check_scores(np.arange(6.0).reshape(2, 3), "")


def test_slopes_of_a_model_without_signal_are_refused():
    draw = np.random.default_rng(0)
    cells = {name: draw.standard_normal((4, 30)).astype(np.float32) for name in (*CELLS, OWN)}
    check_slopes(CellSlopes(cells))
    for name in (*CELLS, OWN):
        wrong = cells | {name: cells[name] * np.float32("nan")}
        with pytest.raises(DataError, match=rf"slopes of {name.replace('_', ' ')} prompts are not"):
            check_slopes(CellSlopes(wrong))
    same = np.tile(cells[OWN][:1], (4, 1))
    for rows in (same, np.zeros_like(same)):
        with pytest.raises(DataError, match="harmful and harmless prompts are the same for every"):
            check_slopes(CellSlopes(dict.fromkeys((*CELLS, OWN), rows)))


def test_halves_that_do_not_agree_are_warned_of():
    up, down = np.arange(40.0).reshape(2, 20), -np.arange(40.0).reshape(2, 20)
    assert split_half(up, up) == {"top": 4, "shared": 1.0, "chance": 0.1}
    assert low_overlap(split_half(up, up), "x") is None
    said = low_overlap(split_half(up, down), "the safety examples")
    assert (
        said is not None and "the safety examples share 0% of their best 4 neurons (chance" in said
    )
    assert low_overlap({"top": 2000, "shared": 0.19, "chance": 0.04}, "x")
    assert low_overlap({"top": 3, "shared": 0.3, "chance": 0.2}, "x")
    assert halves([up]) is None and halves([up, down, up]) == ([up, up], [down])


@pytest.mark.parametrize(("error", "warned"), [(0.0, False), (0.01, False), (0.0101, True)])
def test_nodes_that_miss_more_than_a_hundredth_are_warned_of(error, warned):
    said = large_error(error, 6)
    assert (said is not None) == warned
    assert not said or said.endswith("along the path. Take attribution.steps=12.")
    advised = large_error(0.5, 600)
    assert advised is not None and advised.endswith("steps=1000.")  # 1,200 would be refused
    assert str(large_error(0.5, 1000)).endswith("There are no more.")
    assert AttributionConfig.model_fields["steps"].metadata[1].le == MOST_STEPS
