"""The fast attribution equals the slow one, integrates what it says, on any mesh and chunk."""

import dataclasses
import functools
import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.attribution.gradient import gradient_times_activation
from nt_jax.attribution.integrated import integrated_gradients
from nt_jax.attribution.score import CHOICES, EncodedExample, Options, relative_error, rule_of
from nt_jax.config.method import AttributionConfig
from nt_jax.errors import ConfigError
from tests import plain
from tests.attribution import slow

EXAMPLE = EncodedExample(
    question=[5, 9, 3],
    attacked=[17, 30, 5, 9, 3, 22, 8, 8, 35, 11, 4],
    answer=[21, 6, 33, 12, 2],
)
TEXT = np.array(EXAMPLE.attacked), np.array(EXAMPLE.answer)
# Longer than the answer: the last column is padding.
FEW = Options(steps=4, nodes="midpoint", answer_tokens=6)
TARGETS = ("mean_logprob", "first_token", "sum_logprob")
WEIGHTINGS = ("alpha", "standard")


@functools.cache
def model(dtype=jnp.float32, **changes):
    return plain.random_model(dataclasses.replace(plain.CONFIG, **changes), dtype)


def options(**changes) -> Options:
    return dataclasses.replace(FEW, **changes)


def relative(found, expected) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# --- against the slow reference, in float64 ------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("path", ["layer", "joint"])
def test_scores_equal_the_slow_reference(x64, path, target):
    lm = model(jnp.float64)
    seen = []
    for nodes in ("gauss-legendre", "midpoint", "left", "right"):
        for weighting in ("alpha", "standard"):
            chosen = options(path=path, target=target, nodes=nodes, weighting=weighting)
            found = integrated_gradients(lm, EXAMPLE, chosen)
            expected_LF = slow.scores(lm, EXAMPLE, chosen)
            assert found.score_LF.dtype == np.float64
            assert relative(found.score_LF, expected_LF) < 1e-11
            order = np.argsort(-found.score_LF, axis=None)
            assert order.tolist() == np.argsort(-expected_LF, axis=None).tolist()
            seen.append(found.score_LF)
    differences = [relative(a, b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(differences) > 1e-4  # each rule is one of its own


@pytest.mark.parametrize("target", TARGETS)
def test_gradient_times_activation_equals_the_slow_reference(x64, target):
    lm, chosen = model(jnp.float64), options(target=target)
    found = gradient_times_activation(lm, EXAMPLE, chosen)
    assert relative(found.score_LF, slow.scores(lm, EXAMPLE, chosen, gradient=True)) < 1e-11


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "qwen3", "qk_norm": True, "qkv_bias": True, "kv_heads": 1},
        {"tied": True, "kv_heads": 4, "layers": 2},
    ],
    ids=["biases and norms", "tied"],
)
def test_other_families_equal_the_slow_reference(x64, changes):
    lm = model(jnp.float64, **changes)
    found = integrated_gradients(lm, EXAMPLE, FEW)
    assert relative(found.score_LF, slow.scores(lm, EXAMPLE, FEW)) < 1e-11


@pytest.mark.parametrize("answer_tokens", [1, 3])
def test_an_answer_is_cut_to_the_tokens_that_are_read(x64, answer_tokens):
    lm, chosen = model(jnp.float64), options(answer_tokens=answer_tokens)
    found = integrated_gradients(lm, EXAMPLE, chosen)
    assert relative(found.score_LF, slow.scores(lm, EXAMPLE, chosen)) < 1e-11


def test_neurons_and_ends_are_those_of_whole_passes(x64):
    lm = model(jnp.float64)
    found = integrated_gradients(lm, EXAMPLE, FEW)
    v_q_LF, v_pq_LF = (
        slow.last_token_neurons(lm, ids) for ids in (EXAMPLE.question, EXAMPLE.attacked)
    )
    np.testing.assert_allclose(found.v_q_LF, v_q_LF, rtol=1e-10)
    np.testing.assert_allclose(found.v_pq_LF, v_pq_LF, rtol=1e-10)
    target = functools.partial(slow.patched_target, lm, *TEXT, v_q_LF, target="mean_logprob")
    np.testing.assert_allclose(found.end, target(np.zeros(3, bool)), rtol=1e-12)
    starts = [target(moved_L) for moved_L in np.eye(3, dtype=bool)]
    np.testing.assert_allclose(found.start_L, starts, rtol=1e-12)


# --- calculus ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "neuron"), [(0, 3), (1, 17), (2, 23)])
def test_one_neuron_against_central_differences(x64, layer, neuron):
    """One right node is the clean prompt, where the score is (v_pq - v_q) dP/dv."""
    lm = model(jnp.float64)
    found = integrated_gradients(lm, EXAMPLE, options(steps=1, nodes="right", weighting="standard"))
    step, values = 1e-5, []
    for sign in (1, -1):
        patch_LF = found.v_pq_LF.copy()
        patch_LF[layer, neuron] += sign * step
        moved_L = np.arange(3) == layer
        values.append(slow.patched_target(lm, *TEXT, patch_LF, moved_L, "mean_logprob"))
    difference = (found.v_pq_LF - found.v_q_LF)[layer, neuron]
    expected = difference * float(values[0] - values[1]) / (2 * step)
    np.testing.assert_allclose(found.score_LF[layer, neuron], expected, rtol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_standard_scores_of_a_layer_sum_to_the_change_of_the_target(x64, target):
    lm, chosen = model(jnp.float64), options(weighting="standard", target=target)
    few, many = (
        integrated_gradients(lm, EXAMPLE, dataclasses.replace(chosen, steps=n)) for n in (4, 16)
    )
    errors = [r.completeness_L.max() / np.abs(r.end - r.start_L).max() for r in (few, many)]
    assert errors[1] < 0.01
    assert errors[0] / errors[1] > 10  # the midpoint rule: four times the steps, 1/16 the error
    change_L = many.end - many.start_L
    np.testing.assert_array_equal(many.score_LF, many.standard_LF)
    # Eq. 4 as printed does not.
    assert (np.abs(many.alpha_LF.sum(axis=1) - change_L) / np.abs(change_L)).max() > 0.05


@pytest.mark.parametrize("path", ["layer", "joint"])
def test_one_pass_gives_both_weightings(x64, path):
    lm = model(jnp.float64)
    both = (options(path=path, weighting=weighting) for weighting in WEIGHTINGS)
    one, two = (integrated_gradients(lm, EXAMPLE, chosen) for chosen in both)
    np.testing.assert_array_equal(one.alpha_LF, two.alpha_LF)
    np.testing.assert_array_equal(one.standard_LF, two.standard_LF)
    np.testing.assert_array_equal(one.score_LF, one.alpha_LF)
    np.testing.assert_array_equal(two.score_LF, two.standard_LF)
    assert relative(one.score_LF, two.score_LF) > 0.01


def test_standard_scores_of_all_layers_sum_along_the_joint_path(x64):
    lm, errors = model(jnp.float64), []
    for steps in (4, 32):
        chosen = options(steps=steps, weighting="standard", path="joint")
        found = integrated_gradients(lm, EXAMPLE, chosen)
        change = found.end - found.start_L[0]
        errors.append(abs(found.score_LF.sum() - change) / abs(change))
        assert relative_error(found, "joint") == pytest.approx(errors[-1])
        assert relative_error(found, "layer") > 0.1  # a layer's sum is no change on this path
    assert errors[1] < 0.01 and errors[0] / errors[1] > 20


def test_nodes_lie_in_the_unit_interval():
    assert rule_of(4, "left")[0].tolist() == [0.0, 0.25, 0.5, 0.75]
    assert rule_of(4, "midpoint")[0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert rule_of(4, "right")[0].tolist() == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_rules_miss_of_a_polynomial_what_the_closed_form_says(steps):
    """Gauss-Legendre nothing up to degree 2n - 1, then (n!)^4 / ((2n + 1) (2n)!^2)."""
    point_A, weight_A = rule_of(steps, "gauss-legendre")
    missed = [1 / (power + 1) - weight_A @ point_A**power for power in range(2 * steps + 1)]
    first = math.factorial(steps) ** 4 / ((2 * steps + 1) * math.factorial(2 * steps) ** 2)
    np.testing.assert_allclose(missed, [0.0] * (2 * steps) + [first], rtol=1e-9, atol=1e-15)
    offsets = {"left": 1 / (2 * steps), "right": -1 / (2 * steps), "midpoint": 0.0}
    for nodes, first in offsets.items():
        point_A, weight_A = rule_of(steps, nodes)
        np.testing.assert_allclose(0.5 - weight_A @ point_A, first, atol=1e-15)
    square = 1 / 3 - (lambda rule: rule[1] @ rule[0] ** 2)(rule_of(steps, "midpoint"))
    np.testing.assert_allclose(square, 1 / (12 * steps**2), rtol=1e-12)


@pytest.mark.parametrize("path", ["layer", "joint"])
def test_few_gauss_legendre_nodes_give_what_256_midpoints_give(x64, path):
    lm = model(jnp.float64)
    rules = ((256, "midpoint"), (16, "gauss-legendre"), (16, "midpoint"))
    exact, gauss, middle = (
        integrated_gradients(lm, EXAMPLE, options(path=path, steps=steps, nodes=nodes))
        for steps, nodes in rules
    )
    for name in ("alpha_LF", "standard_LF"):
        errors = [relative(getattr(r, name), getattr(exact, name)) for r in (gauss, middle)]
        assert errors[0] < 1e-4 and errors[0] < errors[1] / 10


# --- what must not matter ------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "chunks"), [("layer", (1, 10, 99)), ("joint", (1, 3, 99))])
def test_the_size_of_a_chunk_does_not_matter(x64, path, chunks):
    """Five rows a layer, so that 10 takes two layers at a time and leaves one over."""
    lm = model(jnp.float64)
    whole = integrated_gradients(lm, EXAMPLE, options(path=path))
    for chunk in chunks:
        found = integrated_gradients(lm, EXAMPLE, options(path=path, chunk=chunk))
        np.testing.assert_allclose(found.score_LF, whole.score_LF, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(found.start_L, whole.start_L, rtol=1e-12)


def test_float32_scores_stay_near_float64(x64):
    exact = integrated_gradients(model(jnp.float64), EXAMPLE, FEW)
    found = integrated_gradients(model(), EXAMPLE, FEW)
    assert found.score_LF.dtype == np.float32
    assert relative(found.score_LF, exact.score_LF) < 1e-5


def test_bfloat16_scores_rank_the_same_neurons():
    exact = integrated_gradients(model(jnp.float32), EXAMPLE, FEW)
    found = integrated_gradients(model(jnp.bfloat16), EXAMPLE, FEW)
    assert found.score_LF.dtype == np.float32
    # bound by bf16's 8 bits through three layers, backwards too
    assert np.corrcoef(found.score_LF.ravel(), exact.score_LF.ravel())[0, 1] > 0.98
    top, exact_top = (set(np.argsort(-r.score_LF, axis=None)[:10]) for r in (found, exact))
    assert len(top & exact_top) >= 7


@pytest.mark.parametrize(("path", "meshes"), [("layer", plain.MESHES), ("joint", [(1, 1), (2, 4)])])
def test_meshes_agree(path, meshes):
    results = []
    for shape in meshes:
        lm = plain.random_model(plain.MESH_CONFIG, mesh=shape)
        results.append(integrated_gradients(lm, EXAMPLE, options(path=path, steps=3)))
    for found in results[1:]:
        assert relative(found.score_LF, results[0].score_LF) < 1e-5
        np.testing.assert_allclose(found.end, results[0].end, rtol=1e-5)


def test_examples_of_one_shape_share_their_programs():
    from nt_jax.attribution.integrated import row_gradients

    lm = model()
    integrated_gradients(lm, EXAMPLE, FEW)
    before = row_gradients._cache_size()
    other = EncodedExample([9], [*EXAMPLE.attacked[::-1], 1, 2], [7, 7])
    found = integrated_gradients(lm, other, options(nodes="left", weighting="standard"))
    assert row_gradients._cache_size() == before and jax.tree.all(np.isfinite(found.score_LF).all())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": "sum_logprobs"}, "target = 'sum_logprobs' is not one of mean_logprob, first_"),
        ({"weighting": "Alpha"}, "weighting = 'Alpha' is not one of alpha, standard."),
        ({"nodes": "middle"}, "nodes = 'middle' is not one of gauss-legendre, midpoint, left, r"),
        ({"path": "layers"}, "path = 'layers' is not one of layer, joint."),
        ({"steps": 0}, "steps = 0 must be at least 1."),
        ({"answer_tokens": 0}, "answer_tokens = 0 must be at least 1."),
        ({"chunk": -1}, "chunk = -1 must be at least 0."),
    ],
)
def test_options_that_there_are_not_are_refused(wrong, words):
    with pytest.raises(ConfigError) as caught:
        options(**wrong)
    assert str(caught.value).startswith(words)


def test_options_know_what_settings_know():
    fields = AttributionConfig.model_fields
    assert {name: get_args(fields[name].annotation) for name in CHOICES} == CHOICES
    assert Options() == Options(**{name: known[0] for name, known in CHOICES.items()})
