"""DINM's location, loss, steps and mask, against transformers and a plain float64 model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.baselines import dinm
from nt_jax.baselines.dinm import (
    DOWN,
    DinmExample,
    DinmOptions,
    edited,
    fit_dinm,
    layer_distances,
)
from nt_jax.errors import DataError, RunError
from nt_jax.models.leaves import get_leaf, with_leaves
from tests import plain, torch_twin
from tests.baselines import made_up
from tests.export.changes import changes

EXAMPLE = DinmExample(
    prompt=[17, 30, 5, 9, 3], safe=[21, 6, 33, 2], unsafe=[12, 7, 9, 31, 8, 2],
    keep_prompt=[8, 14], keep_answer=[25, 4, 19, 22, 11, 2],
)  # fmt: skip
OPTIONS = DinmOptions(learning_rate=0.01, steps=4, layer=1)
pytestmark = pytest.mark.usefixtures("mixed_dtypes")


def weights_of(fit) -> np.ndarray:
    return np.asarray(fit.down_FD.astype("float32"))


# --- where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "llama3"])
@pytest.mark.parametrize("norm_last", [True, False])
def test_distances_are_those_of_transformers_over_common_tokens(family, norm_last):
    pytest.importorskip("torch")
    lm, read = made_up.model(family), made_up.hf_hidden_states if norm_last else made_up.states
    safe, unsafe = (
        read(family, ids)[:, : len(EXAMPLE.safe)] for ids in (EXAMPLE.safe, EXAMPLE.unsafe)
    )
    expected_L = np.sqrt(((safe - unsafe) ** 2).sum(axis=(1, 2)))
    found_L = layer_distances(lm, EXAMPLE.safe, EXAMPLE.unsafe, norm_last=norm_last)
    np.testing.assert_allclose(found_L, expected_L, rtol=1e-4)
    fit = fit_dinm(lm, EXAMPLE, DinmOptions(steps=1, norm_last=norm_last))
    assert fit.layer == expected_L.argmax()
    np.testing.assert_array_equal(fit.distance_L, found_L)


def test_lone_answers_stand_behind_what_the_tokenizer_opens_with():
    """BOS has the same state in both rows: it adds nothing, and no answer token is the first."""
    pytest.importorskip("torch")
    lm, common = made_up.model("llama3"), len(EXAMPLE.safe) + 1
    safe, unsafe = (
        made_up.hf_hidden_states("llama3", [1, *ids])[:, :common]
        for ids in (EXAMPLE.safe, EXAMPLE.unsafe)
    )
    expected_L = np.sqrt(((safe - unsafe) ** 2).sum(axis=(1, 2)))
    found_L = layer_distances(lm, EXAMPLE.safe, EXAMPLE.unsafe, opening=[1])
    np.testing.assert_allclose(found_L, expected_L, rtol=1e-4)
    assert not np.allclose(found_L, layer_distances(lm, EXAMPLE.safe, EXAMPLE.unsafe))
    fit = fit_dinm(lm, dataclasses.replace(EXAMPLE, opening=[1]), DinmOptions(steps=1))
    np.testing.assert_array_equal(fit.distance_L, found_L)


# --- the loss and its steps ----------------------------------------------------------------------


def plain_loss(down_FD, lm, layer: int, kl_weight: float, options: DinmOptions = OPTIONS):
    """DINM's loss by the plain model, unpadded and row by row."""
    new = with_leaves(lm, {DOWN: get_leaf(lm, DOWN).at[layer].set(down_FD)})
    edit = -plain.plain_answer_log_probs(new, EXAMPLE.prompt, EXAMPLE.safe).mean()
    token_T = [*EXAMPLE.keep_prompt, *EXAMPLE.keep_answer]
    base, moved = (
        jax.nn.log_softmax(plain.plain_logits(model, token_T))[len(EXAMPLE.keep_prompt) - 1 : -1]
        for model in (lm, new)
    )
    kl = (jnp.exp(base) * (base - moved)).sum(axis=-1).mean()
    return options.edit_weight * edit + kl_weight * kl, (edit, kl)


def plain_adam(lm, layer: int, kl_grad: bool, options: DinmOptions):
    """(matrix, losses) after Adam written out, on gradients of `plain_loss`, float64."""
    slope = jax.jit(jax.value_and_grad(plain_loss, has_aux=True), static_argnums=2)
    down = np.array(get_leaf(lm, DOWN)[layer])
    mean, square, seen = np.zeros_like(down), np.zeros_like(down), []
    for step in range(1, options.steps + 1):
        (_, parts), g = slope(jnp.asarray(down), lm, layer, 1.0 if kl_grad else 0.0)
        seen.append([float(part) for part in parts])
        mean, square = 0.9 * mean + 0.1 * np.asarray(g), 0.999 * square + 0.001 * np.asarray(g) ** 2
        way = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        down = down - options.learning_rate * way
    return down, seen


@pytest.mark.parametrize(("layer", "kl_grad"), [(0, True), (1, False), (2, True)])
def test_steps_are_those_of_adam_on_the_plain_loss(x64, layer, kl_grad):
    lm = plain.random_model(dtype=jnp.float64)
    options = dataclasses.replace(OPTIONS, layer=layer, kl_grad=kl_grad)
    fit = fit_dinm(lm, EXAMPLE, options)
    expected_FD, losses = plain_adam(lm, layer, kl_grad, options)
    assert fit.layer == layer and fit.distance_L is None
    found = [[row["edit"], row["kl"]] for row in fit.history]
    np.testing.assert_allclose(found, losses, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(
        [row["total"] for row in fit.history], [0.1 * e + k for e, k in losses], rtol=1e-8
    )
    np.testing.assert_allclose(fit.down_FD, expected_FD, rtol=1e-6, atol=1e-8)
    assert losses[0][1] == pytest.approx(0, abs=1e-12) and losses[-1][1] > 1e-4


def test_loss_and_gradient_equal_torch():
    torch = pytest.importorskip("torch")
    from torch.nn.functional import cross_entropy, kl_div

    lm, twin, layer = made_up.model(), torch_twin.load("qwen2"), 0
    task = dinm.make_task(lm, layer, dinm._batch(EXAMPLE, OPTIONS), np.ones((48, 32), bool))
    delta_FD = 0.1 * np.random.default_rng(3).standard_normal((48, 32)).astype("f4")
    slope = jax.jit(jax.value_and_grad(dinm.loss, has_aux=True), static_argnums=(4, 5))
    (total, _), g_FD = slope(delta_FD, lm, task, np.float32(0.3), layer, True)

    def run(prompt, answer):
        tokens = np.array([[*prompt, *answer]])
        return torch_twin.logits(twin, tokens, np.ones_like(tokens))[0, len(prompt) - 1 : -1]

    keep, weight = (
        (EXAMPLE.keep_prompt, EXAMPLE.keep_answer),
        twin.model.layers[layer].mlp.down_proj.weight,
    )
    before = weight.detach().clone()
    base = run(*keep).detach().log_softmax(-1)
    try:
        with torch.no_grad():
            weight.add_(torch.tensor(delta_FD.T))
        edit = cross_entropy(run(EXAMPLE.prompt, EXAMPLE.safe), torch.tensor(EXAMPLE.safe))
        kl = kl_div(run(*keep).log_softmax(-1), base, log_target=True, reduction="batchmean")
        expected = 0.3 * edit + kl
        (theirs_DF,) = torch.autograd.grad(expected, weight)
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert float(total) == pytest.approx(expected.item(), rel=1e-5)
    expected_FD = theirs_DF.numpy().T
    assert np.abs(g_FD - expected_FD).max() < 1e-5 * np.abs(expected_FD).max()


def test_the_edited_model_is_the_one_whose_losses_were_written_down():
    lm = made_up.model()
    fit = fit_dinm(lm, EXAMPLE, dataclasses.replace(OPTIONS, steps=8))
    again = fit_dinm(edited(lm, fit), EXAMPLE, dataclasses.replace(OPTIONS, steps=1))
    longer = fit_dinm(lm, EXAMPLE, dataclasses.replace(OPTIONS, steps=9))
    assert again.history[0]["edit"] == pytest.approx(longer.history[8]["edit"], rel=1e-4)
    assert longer.history[8]["edit"] < 0.8 * longer.history[0]["edit"]
    assert list(changes(lm, edited(lm, fit))) == ["model.layers.1.mlp.down_proj.weight"]


def test_without_its_gradient_the_constraint_changes_nothing_but_is_reported():
    lm = made_up.model()
    other = dataclasses.replace(EXAMPLE, keep_answer=[13, 7, 2])
    paper, released = ({"kl_grad": on} for on in (True, False))
    fits = {
        (name, example is other): fit_dinm(lm, example, dataclasses.replace(OPTIONS, **kind))
        for name, kind in (("paper", paper), ("released", released))
        for example in (EXAMPLE, other)
    }
    np.testing.assert_array_equal(*(weights_of(fits["released", on]) for on in (False, True)))
    assert np.abs(weights_of(fits["paper", False]) - weights_of(fits["paper", True])).max() > 1e-3
    ends = [fits[name, False].history[-1]["kl"] for name in ("paper", "released")]
    assert 0 < ends[0] < ends[1]


def test_it_stops_below_the_given_loss_and_leaves_the_matrix_of_that_step():
    lm = made_up.model()
    first = fit_dinm(lm, EXAMPLE, dataclasses.replace(OPTIONS, stop_below=1e9))
    assert len(first.history) == 1
    np.testing.assert_array_equal(first.down_FD, get_leaf(lm, DOWN)[1])


# --- the mask ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_elements_outside_the_fraction_keep_their_bits(dtype):
    lm = made_up.model("qwen2", dtype)
    old_FD = np.asarray(get_leaf(lm, DOWN)[1])
    moved = {}
    for fraction in (1.0, 0.5, 0.2, 0.1, 0.05):
        options = dataclasses.replace(OPTIONS, fraction=fraction, learning_rate=0.1)
        new_FD = np.asarray(fit_dinm(lm, EXAMPLE, options).down_FD)
        assert new_FD.dtype == old_FD.dtype
        word = {"float32": np.uint32, "bfloat16": np.uint16}[dtype]
        moved[fraction] = new_FD.view(word) != old_FD.view(word)
        spread = 5 * (fraction * (1 - fraction) / old_FD.size) ** 0.5
        assert abs(moved[fraction].mean() - fraction) <= spread + 0.001  # a move can round to none
    for larger, smaller in ((1.0, 0.5), (0.5, 0.2), (0.2, 0.1), (0.1, 0.05)):
        assert not (moved[smaller] & ~moved[larger]).sum() > 0.001 * old_FD.size


def test_another_seed_is_another_mask():
    masks = [dinm._mask((40, 30), DinmOptions(fraction=0.3, seed=seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).mean() > 0.3


# --- wrong input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"layer": 2}, "layer is 2; this model has 0 to 1"),
        ({}, {"fraction": 0.0}, "fraction is 0.0"),
        ({"safe": []}, {"layer": 0}, "of 5 and 0 tokens"),
        ({"unsafe": []}, {"layer": None}, "one of them is empty"),
        ({"keep_prompt": [3] * 125}, {}, "of 125 and 6 tokens"),
    ],
)
def test_what_cannot_be_edited_is_said(change, settings, message):
    example = dataclasses.replace(EXAMPLE, **change)
    with pytest.raises(DataError, match=message):
        fit_dinm(made_up.model(), example, dataclasses.replace(OPTIONS, **settings))


def test_a_diverged_edit_is_refused():
    with pytest.raises(RunError, match="Lower its learning rate"):
        fit_dinm(made_up.model(), EXAMPLE, dataclasses.replace(OPTIONS, learning_rate=1e38))
