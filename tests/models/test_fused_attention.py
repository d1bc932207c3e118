"""Fused attention is attention, as jax's own plain rule stands in for cuDNN's kernels here."""

import functools
import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.hlo_cost import Program
from nt_jax import processes
from nt_jax.attribution import suffix
from nt_jax.attribution.integrated import row_gradients
from nt_jax.data.batching import AnswerBatch, pad_left
from nt_jax.data.packing import Shape, pack_alone
from nt_jax.generate import likelihood
from nt_jax.models import fused_attention
from nt_jax.models.attention import WHOLE, attend, causal, equally, given, laid
from nt_jax.models.fused_attention import agrees, attend_fused, attention_of, is_fused
from nt_jax.train import objectives, slopes
from nt_jax.train.slopes import DECISION, row_slopes, signs
from nt_jax.train.tuned_layers import TunedLayers
from tests import plain
from tests.attribution.test_suffix import prefix_of
from tests.models.test_attention import ABOVE_BT, LENGTH, PART_BT
from tests.train.test_maml import NEURONS, THETA, model, some_rows
from tests.train.test_slopes import beginning_alike

HEADS, KV_HEADS, DIM = 4, 2, 8
attend_here = functools.partial(attend_fused, implementation="xla")
RULES = {
    "causal": causal(jnp.arange(LENGTH)[None] >= jnp.array([[0], [4]])),
    "laid": laid(jnp.asarray(PART_BT), jnp.asarray(ABOVE_BT)),
    "alike": given(jnp.tril(jnp.ones((1, LENGTH, LENGTH), bool))),
}


def drawn(key: int, *shape: int):
    return jax.random.normal(jax.random.key(key), shape, jnp.float32)


def args(past: int):
    """q, k, v of two rows, and what one row holds before them."""
    q = drawn(0, 2, LENGTH, HEADS, DIM)
    own = [drawn(key, 2, LENGTH, KV_HEADS, DIM) for key in (1, 2)]
    return (q, *own), [drawn(key, 1, past, KV_HEADS, DIM) for key in (3, 4)]


@pytest.mark.parametrize("past", [6, 7])  # with 11 of its own an odd number, and an even one
@pytest.mark.parametrize("name", RULES)
def test_values_and_slopes_are_those_of_attention(name, past):
    heads, (before_k, before_v) = args(past)
    seen, weight = equally(jnp.arange(past)[None] != 1), drawn(5, 2, LENGTH, HEADS, DIM)

    def mixed(rule, q, k, v):
        past_k, past_v = (jnp.repeat(x, 2, axis=0) for x in (before_k, before_v))
        return rule(q, [past_k, k], [past_v, v], [seen, RULES[name]])

    found, pull = jax.vjp(functools.partial(mixed, attend_here), *heads)
    wanted, pull_wanted = jax.vjp(functools.partial(mixed, attend), *heads)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)
    for slope, expected in zip(pull(weight), pull_wanted(weight), strict=True):
        np.testing.assert_allclose(slope, expected, rtol=0, atol=1e-5)
        assert np.abs(expected).max() > 0.5


def test_a_mask_of_each_mapped_row_has_every_head():
    """jax's rule for vmap takes a bias of fewer for one of all, and fails."""
    (q, k, v), _ = args(6)
    seen_BTS = RULES["laid"](jnp.int32(0), LENGTH)
    shapes = []

    def one(q, k, v, seen_TS):
        made = jax.make_jaxpr(lambda *x: attend_here(*x[:1], [x[1]], [x[2]], [given(x[3])]))
        shapes.append(made(q[None], k[None], v[None], seen_TS[None]))
        return attend_here(q[None], [k[None]], [v[None]], [given(seen_TS[None])])[0]

    found = jax.vmap(one)(q, k, v, seen_BTS)
    np.testing.assert_allclose(found, attend(q, [k], [v], [RULES["laid"]]), rtol=0, atol=2e-6)
    assert f"1,{HEADS},{LENGTH + 1},{LENGTH + 1}" in str(shapes[0])


def test_a_query_that_sees_nothing_gets_a_number():
    (q, k, v), _ = args(6)
    nothing = given(jnp.zeros((2, LENGTH, LENGTH), bool))
    assert np.isfinite(attend_here(q, [k], [v], [nothing])).all()


@pytest.mark.parametrize("length", [1, WHOLE + 1])
def test_where_nothing_is_gained_or_a_mask_too_large_it_is_attend(length):
    """To the bit: else the results would differ in the last places."""
    q, k, v = (drawn(key, 1, length, 1, 2) for key in range(3))
    sees = [causal(jnp.ones((1, length), bool))]
    both = [
        jax.jit(lambda q, k, v, r=r: r(q, [k], [v], sees))(q, k, v) for r in (attend_fused, attend)
    ]
    np.testing.assert_array_equal(*both)


# --- where it is used ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "head_dim", "used"),
    [
        ("gpu", "9.0", jnp.bfloat16, 128, True),
        ("cuda", "8.0", jnp.float16, 64, True),
        ("gpu", "12.0", jnp.bfloat16, 96, True),
        ("gpu", "7.5", jnp.float16, 128, False),
        ("gpu", "gfx90a", jnp.bfloat16, 128, False),
        ("gpu", "9.0", jnp.float32, 128, False),
        ("gpu", "9.0", jnp.bfloat16, 256, False),
        ("gpu", "9.0", jnp.bfloat16, 20, False),
        ("cpu", "9.0", jnp.bfloat16, 128, False),
        ("tpu", "", jnp.bfloat16, 128, False),
    ],
)
def test_where_it_is_used(platform, capability, dtype, head_dim, used, monkeypatch):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    mesh = types.SimpleNamespace(devices=np.array([device], object), shape={"fsdp": 1})
    config = types.SimpleNamespace(head_dim=head_dim, heads=8, kv_heads=2)
    lm = types.SimpleNamespace(mesh=mesh, laid_out=config, dtype=jnp.dtype(dtype))
    assert is_fused(lm) == used  # a card that is only described cannot be tried
    assert attention_of(lm) is (attend_fused if used else attend)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    for agreed in (True, False):
        monkeypatch.setattr(fused_attention, "agrees", lambda *_, agreed=agreed: agreed)
        assert is_fused(lm) == (used and agreed)
    monkeypatch.setattr(fused_attention, "agrees", lambda *_: True)
    monkeypatch.setattr(processes, "several", lambda: True)
    assert not is_fused(lm)
    monkeypatch.undo()
    mesh.shape["fsdp"] = 2
    assert not is_fused(lm)
    mesh.shape["fsdp"] = 1
    monkeypatch.setenv("NT_JAX_ATTENTION", "plain")
    assert not is_fused(lm)


@pytest.fixture
def tried_anew():
    agrees.cache_clear()
    with jax.numpy_dtype_promotion("standard"):  # of 16 bits jax's plain rule adds to float32
        yield
    agrees.cache_clear()


def test_a_trial_agrees_where_the_kernels_do(tried_anew, caplog):
    outcome, dtype = [], jnp.dtype(jnp.bfloat16)
    jax.jit(lambda x: outcome.append(agrees(dtype, 4, 2, 16, "xla")) or x)(1.0)
    assert outcome == [True] and not caplog.records  # within another program's trace, too


def test_a_trial_that_fails_is_told_of_once(tried_anew, caplog, monkeypatch):
    """There is no cuDNN here."""
    with caplog.at_level(logging.WARNING):
        assert [agrees(jnp.dtype(jnp.bfloat16), 4, 2, 16) for _ in range(2)] == [False, False]
    (record,) = caplog.records
    assert "cannot be used here (" in record.message and "plain one" in record.message
    assert "\n" not in record.message


@pytest.mark.parametrize("wrong", ["value", "slope", "nan"])
def test_a_trial_finds_kernels_that_are_wrong(tried_anew, caplog, monkeypatch, wrong):
    right = jax.nn.dot_product_attention

    def kernel(q, k, v, **settings):
        out = right(q, k, v, **settings)
        off = {"value": 1.1 * out, "slope": jax.lax.stop_gradient(out), "nan": out * jnp.nan}
        return off[wrong].astype(out.dtype)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    with caplog.at_level(logging.WARNING):
        assert not agrees(jnp.dtype(jnp.bfloat16), 4, 2, 16, "xla")
    assert "of the largest value off" in caplog.text


# --- the programs that take it -------------------------------------------------------------------


@pytest.fixture
def both_ways(monkeypatch):
    """What a program gives as on a CPU, and as on a GPU."""

    def run(modules, program):
        jax.clear_caches()
        expected = jax.device_get(program())
        calls = []

        def fused(*args):
            calls.append(1)
            return attend_here(*args)

        for module in modules:
            monkeypatch.setattr(module, "attention_of", lambda lm: fused)
        jax.clear_caches()
        found = jax.device_get(program())
        jax.clear_caches()
        assert calls
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(1, np.abs(b).max()))

    return run


def test_attribution(both_ways):
    lm = plain.random_model()
    layer_R, shift_RD = np.arange(3, dtype=np.int32), np.full((3, 16), 0.1, np.float32)
    settings = {"target": "mean_logprob"}
    both_ways(
        [suffix],
        lambda: row_gradients(lm, prefix_of(lm), jnp.int32(1), layer_R, shift_RD, **settings),
    )


@pytest.mark.parametrize("shared", [0, 8])
def test_slopes(both_ways, shared):
    """Of whole rows, and behind what they share."""
    rows = beginning_alike(some_rows(np.random.default_rng(3), 5, longest=9), 8)
    tuned, shape = TunedLayers.of(model(), NEURONS), Shape(1, 5, 32, 16, 1)
    theta_P, settings = jnp.asarray(THETA, jnp.float32), {"what": DECISION}

    def program():
        batch = jax.tree.map(lambda leaf: leaf[0], pack_alone(rows, shape, shared=shared))
        batch, shared_1SD = tuned.enter_behind(batch, rows[0].prompt[:shared])
        given = theta_P, tuned.lm, tuned.neurons, batch, signs(range(5), shape)
        return row_slopes(*given, shared_1SD=shared_1SD, **settings)

    both_ways([slopes, objectives], program)


def test_likelihoods(both_ways):
    lm = plain.random_model()
    prompt, answer = pad_left([[4, 9, 3], [7]], 4), pad_left([[5, 6], [8, 9]], 2)
    batch = AnswerBatch(*prompt, *answer, np.ones(2, np.float32))
    both_ways([likelihood], lambda: likelihood.batch_scores(lm, lm.ones_LF, batch))


def test_what_its_kernels_cost():
    shapes = "bf16[2,6,4,8]{3,2,1,0}", "bf16[2,10,2,8]{3,2,1,0}", "bf16[2,1,6,10]{3,2,1,0}"
    text = f"""
ENTRY %main (q: {shapes[0]}, k: {shapes[1]}, v: {shapes[1]}, b: {shapes[2]}) -> {shapes[0]} {{
  %q = {shapes[0]} parameter(0)
  %k = {shapes[1]} parameter(1)
  %v = {shapes[1]} parameter(2)
  %b = {shapes[2]} parameter(3)
  ROOT %out = {shapes[0]} custom-call(%q, %k, %v, %b), custom_call_target="TARGET"
}}
"""
    queries, keys, bias = 2 * 6 * 4 * 8, 2 * 10 * 2 * 8, 2 * 6 * 10
    for target, products in (
        ("__cudnn$fmhaScaleBiasSoftmax", 2),
        ("__cudnn$fmhaSoftmaxBackward", 5),
    ):
        (kernel,) = Program(text.replace("TARGET", target)).kernels
        assert kernel.flops == products * 2 * queries * 10
        assert (kernel.read, kernel.written) == (2 * (queries + 2 * keys + bias), 2 * queries)
