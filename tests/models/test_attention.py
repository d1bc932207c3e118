"""Attention in parts is attention: values, slopes of both orders; memory linear in the queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.models import attention
from nt_jax.models.attention import attend, causal, equally, given, laid, together

LENGTH, HEADS, KV_HEADS, DIM = 11, 4, 2, 3
PART_BT = np.array(
    [[0, 0, 1, 1, 2, 2, 3, 4, 4, 5, -1], [0, 1, 1, 1, 1, 4, 4, 6, 6, 6, 6]], np.int32
)
ABOVE_BT = np.array(
    [[0, 0, 0, 0, 1, 1, 1, 0, 0, 4, -1], [0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4]], np.int32
)


@pytest.fixture
def in_parts(monkeypatch):
    """Parts of four queries at most, of which 11 make three."""
    monkeypatch.setattr(attention, "WHOLE", 5)
    monkeypatch.setattr(attention, "PART", 4)


def drawn(key: int, *shape: int):
    return jax.random.normal(jax.random.key(key), shape, jnp.float64)


def sights():
    """Rules by name, each with the mask that says the same at a glance."""
    order_TT = np.tril(np.ones((LENGTH, LENGTH), bool))
    real_BT = np.arange(LENGTH)[None] >= np.array([[0], [4]])
    any_BTT = np.random.default_rng(0).random((2, LENGTH, LENGTH)) < 0.5
    same = [PART_BT[:, None] == other[:, :, None] for other in (0 * PART_BT, PART_BT, ABOVE_BT)]
    every = np.broadcast_to(real_BT[:, None], any_BTT.shape)
    return {
        "given": (given(jnp.asarray(any_BTT)), any_BTT),
        "equally": (equally(jnp.asarray(real_BT)), every),
        "causal": (causal(jnp.asarray(real_BT)), order_TT & every),
        "laid": (
            laid(jnp.asarray(PART_BT), jnp.asarray(ABOVE_BT)),
            order_TT & np.any(same, axis=0),
        ),
    }


def by_hand(q, keys, values, masks):
    """Query by query, in numpy."""
    q, k, v = np.asarray(q), np.concatenate(keys, axis=1), np.concatenate(values, axis=1)
    seen, out = np.concatenate(masks, axis=2), np.zeros(q.shape)
    for b, t, n in np.ndindex(q.shape[:3]):
        kv = n // (HEADS // KV_HEADS)
        score = k[b, :, kv] @ q[b, t, n] * DIM**-0.5
        weight = np.where(seen[b, t], np.exp(score - score.max()), 0.0)
        if not seen[b, t].any():
            weight = np.ones(len(score))
        out[b, t, n] = weight @ v[b, :, kv] / weight.sum()
    return out


def stretches():
    q = drawn(0, 2, LENGTH, HEADS, DIM)
    own = [drawn(key, 2, LENGTH, KV_HEADS, DIM) for key in (1, 2)]
    past = [drawn(key, 2, LENGTH, KV_HEADS, DIM) for key in (3, 4)]
    return q, own, past


@pytest.mark.parametrize("rule", ["given", "equally", "causal", "laid"])
def test_a_part_sees_what_the_whole_does(rule):
    sees, mask_BTS = sights()[rule]
    whole = np.broadcast_to(np.asarray(sees(jnp.int32(0), LENGTH)), mask_BTS.shape)
    np.testing.assert_array_equal(whole, mask_BTS)
    for first, count in ((0, 4), (4, 4), (8, 3)):
        part = np.broadcast_to(np.asarray(sees(jnp.int32(first), count)), (2, count, LENGTH))
        np.testing.assert_array_equal(part, mask_BTS[:, first : first + count])


@pytest.mark.parametrize("rule", ["given", "causal", "laid"])
@pytest.mark.parametrize("parts", [False, True])
def test_it_is_softmax_attention_over_what_is_seen(x64, rule, parts, request):
    if parts:
        request.getfixturevalue("in_parts")
    q, own, past = stretches()
    (sees, mask), (before, known) = sights()[rule], sights()["equally"]
    found = attend(q, [past[0], own[0]], [past[1], own[1]], [before, sees])
    wanted = by_hand(q, [past[0], own[0]], [past[1], own[1]], [known, mask])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13)


def test_a_query_that_sees_nothing_gets_the_mean(x64, in_parts):
    q, own, _ = stretches()
    nothing = given(jnp.zeros((2, LENGTH, LENGTH), bool))
    found = attend(q, [own[0]], [own[1]], [nothing])
    mean = np.repeat(np.asarray(own[1]).mean(axis=1), HEADS // KV_HEADS, axis=1)
    np.testing.assert_allclose(found, np.broadcast_to(mean[:, None], found.shape), atol=1e-13)


def test_slopes_and_their_products_are_those_of_the_whole(x64, monkeypatch):
    q, own, past = stretches()
    weight, sees = drawn(5, *q.shape), sights()["laid"][0]
    before = sights()["equally"][0]

    def loss(args):
        q, k, v = args
        mixed = attend(q, [past[0], k], [past[1], v], [before, sees])
        return (jnp.sin(mixed) * weight).sum()

    args, along = (q, *own), tuple(drawn(key, *x.shape) for key, x in enumerate((q, *own), 6))
    both = lambda: jax.jvp(jax.grad(loss), (args,), (along,))  # noqa: E731
    whole = both()
    monkeypatch.setattr(attention, "WHOLE", 5)
    monkeypatch.setattr(attention, "PART", 4)
    for found, wanted in zip(jax.tree.leaves(both()), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_parts_are_even_and_no_longer_than_they_may_be():
    assert [together(n) for n in (1, 512, 1024)] == [1, 512, 1024]
    for length in (1025, 1100, 2048, 8191, 32768):
        size = together(length)
        parts = -(-length // size)
        assert size <= attention.PART and 0 <= parts * size - length < parts
    assert together(32768) == 512


@pytest.mark.parametrize("slope", [False, True])
def test_memory_is_linear_in_the_number_of_tokens(slope):
    def total(q, k, v, mask_BT):
        return attend(q, [k], [v], [causal(mask_BT)]).sum()

    def held(tokens: int) -> int:
        shape = lambda heads: jax.ShapeDtypeStruct((1, tokens, heads, 8), jnp.float32)  # noqa: E731
        given = (shape(2), shape(1), shape(1), jax.ShapeDtypeStruct((1, tokens), jnp.bool_))
        run = jax.jit(jax.grad(total, argnums=(0, 1, 2)) if slope else total)
        return run.lower(*given).compile().memory_analysis().temp_size_in_bytes

    short, long = held(4096), held(16384)
    assert 3.5 < long / short < 4.2
    assert long < 2 * 4 * 16384**2 / 4  # all scores would be four times as much
