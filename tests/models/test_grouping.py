"""Heads on a model axis: the layout is the cheapest of all, and loses or adds nothing."""

import dataclasses
import itertools

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from nt_jax.doctor.shapes import SHAPES
from nt_jax.models.grouping import cheapest_grouping, laid_out, to_mesh, to_published
from tests import plain


def exhaustive(heads: int, kv_heads: int, ways: int) -> tuple[int, int]:
    """The least (query and kv heads, kv heads) of every layout there is, tried one by one.

    A layout is how often each published kv head lies there, some heads of zeros, and how many query
    heads each has: it works where the copies have room for the query heads of theirs, and the kv
    heads are equal parts for the devices.
    """
    each, found = heads // kv_heads, []
    for group in range(1, each + 1):
        for copies in itertools.product(range(1, each + 1), repeat=kv_heads):
            if all(count * group >= each for count in copies):
                kv = next(n for n in itertools.count(sum(copies)) if n % ways == 0)
                found.append((kv * group + kv, kv))
    return min(found)


@pytest.mark.parametrize("ways", [1, 2, 3, 4, 6, 8, 12])
def test_no_layout_is_cheaper(ways):
    for kv_heads, each in itertools.product((1, 2, 3, 4), (1, 2, 3, 5, 7)):
        if each**kv_heads > 700:
            continue
        found = cheapest_grouping(kv_heads * each, kv_heads, ways)
        least = exhaustive(kv_heads * each, kv_heads, ways)
        assert (found.heads + found.kv_heads, found.kv_heads) == least, (kv_heads, each)


def test_every_query_head_lies_once_and_beside_its_own_kv_head():
    for kv_heads, each, ways in itertools.product((1, 2, 3, 4, 8), (1, 2, 3, 7), (2, 3, 5, 8, 16)):
        heads = kv_heads * each
        found = cheapest_grouping(heads, kv_heads, ways)
        query, kv = (found.sources[letter] for letter in "NK")
        assert len(kv) % ways == 0 and len(query) == len(kv) * found.group
        assert sorted(head for head in query if head < heads) == [*range(heads)]
        for place, head in enumerate(query):
            assert head == heads or kv[place // found.group] == head // each


@pytest.mark.parametrize(
    ("shape", "ways", "expected"),
    [
        ("qwen2.5-7b", 4, (28, 4)),  # divides: as published
        ("qwen2.5-7b", 8, (32, 8)),  # each kv head twice, with 4 and 3 query heads and one of zeros
        ("smollm2-135m", 8, (16, 8)),  # twice, with 2 and 1; two kv heads of zeros
        ("smollm2-135m", 2, (12, 4)),  # one kv head of zeros
        ("qwen2.5-0.5b", 8, (16, 8)),  # four times, with 2, 2, 2 and 1
        ("llama3.1-8b", 8, (32, 8)),
        ("llama3.1-8b", 16, (32, 16)),  # twice, two query heads each
    ],
)
def test_published_models(shape, ways, expected):
    config = SHAPES[shape].config
    laid = laid_out(config, ways)
    assert (laid.heads, laid.kv_heads) == expected
    assert laid_out(laid, ways) == laid
    assert dataclasses.replace(laid, heads=config.heads, kv_heads=config.kv_heads) == config


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_leaf_comes_back_as_it_was(kind, dtype):
    config = dataclasses.replace(plain.CONFIG, heads=9, kv_heads=3)
    draw = np.random.default_rng(0)
    for axes in ("LDNH", "LKH", "NHD", "LDF"):
        leaf = kind(draw.standard_normal([config.sizes[axis] for axis in axes]).astype(dtype))
        laid = to_mesh(leaf, axes, config, 8)
        sizes = laid_out(config, 8).sizes
        assert laid.shape == tuple(sizes[axis] for axis in axes) and laid.dtype == dtype
        back = to_published(laid, axes, config, 8)
        np.testing.assert_array_equal(np.asarray(back), np.asarray(leaf))
        if "N" in axes:  # nothing but zeros was added
            added = np.abs(np.asarray(laid, np.float64)).sum()
            assert added == np.abs(np.asarray(leaf, np.float64)).sum()
        assert to_mesh(leaf, axes, config, 3) is leaf  # an axis that divides them costs nothing
