"""Matrices kept as int8: how far they are off, and models of them beside models of their numbers.

The oracle is the same model with its matrices made wide once, as a whole, in numpy.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nt_jax.attribution.integrated import integrated_gradients
from nt_jax.attribution.score import EncodedExample, Options
from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.compare.pipeline import compare
from nt_jax.config.load import load_config
from nt_jax.data.batching import pad_left
from nt_jax.data.packing import Shape, pack_alone
from nt_jax.errors import ConfigError
from nt_jax.generate.engine import answer_prompts
from nt_jax.generate.slots import stack_sizes
from nt_jax.mesh import make_mesh, sharding
from nt_jax.models.footprint import Footprint
from nt_jax.models.grouping import to_mesh
from nt_jax.models.int8 import CHANNELS, LEVELS, quantised, step_of
from nt_jax.models.leaves import get_leaf, with_leaves
from nt_jax.models.transformer import LanguageModel, assemble, leaf_axes, leaf_dtype, logits
from nt_jax.train.maml import meta_gradient
from nt_jax.train.slopes import DECISION, every_neuron, row_slopes
from nt_jax.train.theta import place
from tests import plain, tiny
from tests.train import test_maml as maml

ROWS = [[5, 9, 3], [7], [21, 4, 4, 8], [30, 1, 2, 2, 6, 11, 19], [9], [2, 2], [17, 8], [33]]
QWEN = dataclasses.replace(plain.MESH_CONFIG, layers=2, family="qwen2", qkv_bias=True, tied=True)
CONFIGS = {"llama": maml.CONFIG, "qwen2": QWEN}
EXAMPLE = EncodedExample([5, 9, 3], [17, 30, 5, 9, 3, 22, 8], [21, 6, 33])


def in_two(name: str, leaf: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers and steps of a stacked leaf, layer by layer."""
    both = [quantised(weight, len(CHANNELS[name])) for weight in leaf]
    return np.stack([whole for whole, _ in both]), np.stack([step for _, step in both])


def widened(whole: np.ndarray, step: np.ndarray) -> np.ndarray:
    """What a leaf's whole numbers stand for."""
    ones = (1,) * (whole.ndim - step.ndim)
    return whole.astype(np.float32) * step.reshape(step.shape[0], *ones, *step.shape[1:])


@functools.cache
def model(kind: str, int8: bool, mesh: tuple[int, ...] = (1, 1), **changes) -> LanguageModel:
    """Random matrices as int8, or the numbers that these stand for as float32."""
    config = dataclasses.replace(CONFIGS[kind], int8=int8, **changes)
    found: dict[str, np.ndarray] = {}
    for name, leaf in plain.random_leaves(dataclasses.replace(config, int8=False)).items():
        leaf = leaf.astype(np.float32)
        if name in CHANNELS:
            whole, step = in_two(name, leaf)
            found |= {name: whole, step_of(name): step} if int8 else {name: widened(whole, step)}
        else:
            found[name] = leaf
    placed, axes = make_mesh(*mesh), leaf_axes(config)
    leaves = {
        name: jax.device_put(
            to_mesh(leaf, axes[name], config, placed.shape["model"]), sharding(placed, axes[name])
        )
        for name, leaf in found.items()
    }
    return assemble(config, leaves, placed)


def apart(one, other) -> float:
    """Largest difference, over the largest number."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.abs(one - other).max() / np.abs(other).max())


# --- the numbers ---------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 2), st.floats(1e-6, 1e6))
def test_no_weight_is_off_by_more_than_half_a_step_of_its_channel(seed, channels, size):
    weight = np.random.default_rng(seed).standard_normal((6, 5, 4)).astype(np.float32)
    weight = weight * np.float32(size)
    whole, step = quantised(weight, channels)
    summed = tuple(range(3 - channels))
    assert whole.dtype == np.int8 and step.dtype == np.float32
    np.testing.assert_allclose(step, np.abs(weight).max(axis=summed) / LEVELS, rtol=1e-6)
    error = np.abs(whole.astype(np.float64) * step - weight)
    assert (error <= 0.5 * step * (1 + 1e-5)).all()  # half of the largest / 127
    assert (np.abs(whole).max(axis=summed) == LEVELS).all()  # which is kept itself


def test_channels_of_zeros_stay_zeros():
    weight = np.zeros((3, 2), np.float32)
    weight[:, 1] = [1, -2, 0.5]
    whole, step = quantised(weight, 1)
    assert step[0] == 0 and not whole[:, 0].any() and whole[1, 1] == -LEVELS


# --- from a checkpoint ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama2", "qwen2", "qwen3"])
def test_a_checkpoint_gives_every_matrix_of_its_layers_as_int8_and_nothing_else(family):
    source, mesh = str(tiny.checkpoint(family)), make_mesh()
    lm, original = (load_weights(source, "float32", mesh, frozen=one) for one in ("int8", None))
    leaves, wide = plain.leaves_of(lm), plain.leaves_of(original)
    matrices = {name for name in wide if "blocks." in name and not name.endswith(("norm", "bias"))}
    assert {name for name, leaf in leaves.items() if leaf.dtype == jnp.int8} == matrices
    for name, leaf in leaves.items():
        assert leaf.dtype == leaf_dtype(lm.config, name, jnp.float32), name
        if name in matrices:
            expected = in_two(name, np.asarray(wide[name]))
            for part, found in zip(expected, (leaf, leaves[step_of(name)]), strict=True):
                np.testing.assert_array_equal(found, part)
        elif name in wide:
            np.testing.assert_array_equal(leaf, wide[name])
    batch = pad_left(ROWS, 8)
    off = apart(jax.jit(logits)(lm, *batch), jax.jit(logits)(original, *batch))
    assert 1e-4 < off < 0.03  # rounded, and by no more than a rounding
    assert dataclasses.replace(lm.config, int8=False) == original.config


def test_a_checkpoint_read_onto_eight_devices_is_the_same_model():
    """Heads are laid out anew: four kv heads, of zeros and copies, on eight devices."""
    source, batch = str(tiny.checkpoint("qwen2", kv_heads=2)), pad_left(ROWS, 8)
    one, eight = (
        load_weights(source, "float32", make_mesh(*mesh), frozen="int8") for mesh in ((1,), (1, 8))
    )
    assert eight.laid_out.kv_heads == 8
    assert apart(jax.jit(logits)(eight, *batch), jax.jit(logits)(one, *batch)) < 1e-5


# --- beside the model of the same numbers ---------------------------------------------------------


@pytest.mark.parametrize(("kind", "mesh"), [("llama", (1, 1)), ("qwen2", (2, 2, 2))])
def test_logits_and_the_gradient_of_a_tuning_step_are_those_of_the_same_numbers(kind, mesh):
    found, expected = model(kind, True, mesh), model(kind, False)
    batch = pad_left(ROWS, 8)
    assert apart(jax.jit(logits)(found, *batch), jax.jit(logits)(expected, *batch)) < 1e-5
    sets = maml.meta_batch()
    if mesh != (1, 1):
        sets = maml.packed(maml.meta_rows(), dataclasses.replace(maml.SHAPE, stretches=1, side=4))
    chosen, theta_P = maml.options(with_kl=True, inner_steps=1), maml.THETA.astype(np.float32)
    gradient = jax.jit(meta_gradient)
    found_P, _ = gradient(theta_P, found, place(maml.NEURONS), sets, chosen)
    expected_P, _ = gradient(theta_P, expected, place(maml.NEURONS), maml.meta_batch(), chosen)
    assert apart(found_P, expected_P) < 1e-5


@pytest.mark.parametrize("path", ["layer", "joint"])
def test_attribution_is_that_of_the_same_numbers(path):
    options = Options(steps=2, path=path, answer_tokens=4)
    found, expected = (
        integrated_gradients(model("qwen2", int8), EXAMPLE, options).score_LF
        for int8 in (True, False)
    )
    assert apart(found, expected) < 1e-5


def test_answers_are_those_of_the_same_numbers_and_no_layer_lies_twice():
    lm, other = model("llama", True), model("llama", False)
    assert stack_sizes(lm) == [lm.config.layers]
    found, expected = (
        answer_prompts(each, each.ones_LF, ROWS, max_new=6, batch_size=4) for each in (lm, other)
    )
    assert found == expected


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("first", [0, 4])
def test_the_way_back_stores_no_matrix(remat, first):
    """Temporaries are those of the wide model but for less than a layer, of eight or twelve."""
    temporaries, slopes = [], []
    for int8 in (True, False):
        lm = model("llama", int8, layers=12, width=64, neurons=128, head_dim=16).above(first)
        layers, width = lm.config.layers, lm.config.neurons
        batch = pack_alone(maml.some_rows(np.random.default_rng(0), 2), Shape(1, 2, 16, 8, 1))
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        batch = dataclasses.replace(batch, x_BTD=jnp.ones((2, 16, 64)))
        ones_P, neurons = jnp.ones(layers * width), place(every_neuron(layers, width, 0))
        settings = {"what": DECISION, "remat": remat}
        given_ = (ones_P, lm, neurons, batch, np.ones((2, 8), np.float32))
        program = row_slopes.lower(*given_, **settings).compile()
        temporaries.append(program.memory_analysis().temp_size_in_bytes)
        slopes.append(program(*given_)[1])
    assert apart(*slopes) < 1e-5
    layer = 4 * (3 * 64 * 128 + 2 * 64 * 64 + 2 * 64 * 64)
    assert abs(temporaries[0] - temporaries[1]) < layer


# --- what knows of it ----------------------------------------------------------------------------


@pytest.mark.parametrize("mesh", [(1, 1), (2, 4), (2, 2, 2)])
def test_the_plan_counts_the_bytes_that_lie_on_a_device(mesh):
    lm = model("qwen2", True, mesh)
    held = Footprint(lm.config, 4, mesh[0] * (mesh[2] if len(mesh) > 2 else 1), *mesh[1:])
    shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(lm)]
    assert held.weights == sum(shard.nbytes for shard in shards)


def test_a_matrix_of_int8_is_neither_read_nor_changed_by_its_name():
    lm, down = model("qwen2", True), "blocks.mlp.down"
    for ask in (get_leaf, lambda lm, name: with_leaves(lm, {name: np.zeros(1)})):
        with pytest.raises(ConfigError, match=f"model.frozen = int8: '{down}' is kept as int8"):
            ask(lm, down)
    np.testing.assert_array_equal(get_leaf(lm, "embed"), plain.leaves_of(lm)["embed"])


def test_a_comparison_of_int8_matrices_is_refused_before_anything_is_read():
    config = load_config(None, ["model.source=nowhere", "model.frozen=int8"])
    with pytest.raises(ConfigError, match=r"model.frozen = int8: the methods of a comparison"):
        compare(config)
