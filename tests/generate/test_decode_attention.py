"""The kernel that a GPU decodes with, interpreted here, beside brute force and the plain path."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import hlo_cost
from nt_jax.generate import decode_attention, engine
from nt_jax.generate.decode_attention import BUSY, LEAST, attend_by_kernel, block_of, shares_of
from nt_jax.generate.engine import answer_prompts
from nt_jax.generate.slots import empty_slots
from nt_jax.mesh import make_mesh
from tests import plain

B, N, K, H = 4, 8, 4, 16
# More columns than one share holds; lengths at and beside the edges of blocks and shares.
SIZES = [(64, [1, 16, 63, 64]), (320, [1, 65, 320, 200]), (4 * LEAST, [LEAST, LEAST + 1, 3, 500])]
PROMPTS = [[5, 9, 3], [4], [7, 8, 9, 10, 3, 4], [5, 9, 3, 11]]


def drawn(columns: int):
    draw = np.random.default_rng(columns)
    q = draw.standard_normal((B, N, H))
    keys, values = draw.standard_normal((2, B, K, columns, H))
    return q, keys, values


def by_hand(q, keys, values, lengths) -> np.ndarray:
    """Softmax attention of one query a row, number by number, in float64."""
    out = np.zeros(q.shape)
    for row, length in enumerate(lengths):
        for head in range(N):
            mine = head // (N // K)
            odds = np.exp(keys[row, mine, :length] @ q[row, head] / np.sqrt(H))
            out[row, head] = odds @ values[row, mine, :length] / odds.sum()
    return out


@pytest.mark.parametrize("mesh", [(1, 1), (2, 1), (1, 4), (2, 2)])
@pytest.mark.parametrize(("columns", "lengths"), SIZES)
def test_the_kernel_attends_to_what_each_row_holds(columns, lengths, mesh):
    given = drawn(columns)
    q, keys, values = (jnp.asarray(each, jnp.float32) for each in given)
    run = jax.jit(attend_by_kernel, static_argnums=0)
    out = run(make_mesh(*mesh), q, keys, values, jnp.asarray(lengths, jnp.int32))
    assert out.dtype == q.dtype
    np.testing.assert_allclose(out, by_hand(*given, lengths), rtol=2e-6, atol=2e-6)


def test_sixteen_bits_stay_near_float64():
    given = drawn(64)
    q, keys, values = (jnp.asarray(each, jnp.bfloat16) for each in given)
    out = attend_by_kernel(make_mesh(), q, keys, values, jnp.full(B, 40, jnp.int32))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), by_hand(*given, [40] * B), atol=0.03)


@pytest.fixture
def no_programs_kept():
    """They are kept by shapes, which do not say how keys lie."""
    yield jax.clear_caches
    jax.clear_caches()


@pytest.mark.parametrize("mesh", [(1, 1), (2, 2)])
def test_answers_are_those_of_the_plain_path(mesh, monkeypatch, no_programs_kept):
    """The cache lies otherwise, too: refills, shared beginnings and a cache that grows."""
    config = dataclasses.replace(plain.MESH_CONFIG, max_positions=512)
    lm = plain.random_model(config, mesh=mesh)
    settings = {"max_new": 150, "batch_size": 4}
    prompts = [[*PROMPTS[n % 4], *range(3, 3 + n)] for n in range(9)]
    expected = answer_prompts(lm, lm.ones_LF, prompts, **settings)
    no_programs_kept()
    for module in (decode_attention, engine):
        monkeypatch.setattr(module, "by_kernel", lambda lm: True)
    assert empty_slots(lm, 4, 128, 8).keys[0].shape[3] == 128
    assert answer_prompts(lm, lm.ones_LF, prompts, **settings) == expected
    assert len({tuple(row) for row in expected}) == len(prompts)


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "head_dim", "used"),
    [
        ("gpu", "9.0", jnp.bfloat16, 128, True),
        ("cuda", "8.0", jnp.float16, 64, True),
        ("gpu", "12.0", jnp.bfloat16, 128, True),
        ("gpu", "7.5", jnp.float16, 128, False),
        ("gpu", "gfx90a", jnp.bfloat16, 128, False),
        ("gpu", "9.0", jnp.float32, 128, False),
        ("gpu", "9.0", jnp.bfloat16, 96, False),
        ("gpu", "9.0", jnp.bfloat16, 8, False),
        ("cpu", "9.0", jnp.bfloat16, 128, False),
        ("tpu", "", jnp.bfloat16, 128, False),
    ],
)
def test_where_it_is_used(platform, capability, dtype, head_dim, used):
    device = types.SimpleNamespace(platform=platform, compute_capability=capability)
    mesh = types.SimpleNamespace(devices=np.array([device], object), shape={"fsdp": 1})
    config = types.SimpleNamespace(head_dim=head_dim, int8=False)
    lm = types.SimpleNamespace(mesh=mesh, config=config, dtype=jnp.dtype(dtype))
    assert decode_attention.by_kernel(lm) == used
    assert decode_attention.key_axis(lm) == (3 if used else 4)
    config.int8 = True
    assert not decode_attention.by_kernel(lm)
    config.int8, mesh.shape["fsdp"] = False, 2
    assert not decode_attention.by_kernel(lm)


def test_blocks_and_shares_cut_the_columns_evenly():
    for columns in (64, 192, 512, 768, 4096):
        for programs in (1, 8, BUSY):
            shares = shares_of(columns, programs)
            assert columns % (shares * block_of(columns)) == 0 or shares == 1
            assert columns // shares >= min(columns, LEAST)
    assert [shares_of(4096, n) for n in (1, 8, BUSY // 2, BUSY)] == [32, 32, 2, 1]
    assert [block_of(n) for n in (64, 96, 48)] == [64, 32, 16]


def test_the_model_of_an_h100_charges_it():
    """Two products of 4 heads with half of 512 columns, of 8 rows; all is read once."""
    text = """HloModule one

ENTRY %main (q: bf16[8,4,128], k: bf16[8,1,512,128], v: bf16[8,1,512,128], n: s32[8]) -> bf16[8,1,4,128] {
  %q = bf16[8,4,128]{2,1,0} parameter(0)
  %k = bf16[8,1,512,128]{3,2,1,0} parameter(1)
  %v = bf16[8,1,512,128]{3,2,1,0} parameter(2)
  %n = s32[8]{0} parameter(3)
  ROOT %out = bf16[8,1,4,128]{3,2,1,0} custom-call(%q, %k, %v, %n), custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(mqa)/vmap(mha_forward)/pallas_call"}
}
"""  # noqa: E501
    (kernel,) = hlo_cost.Program(text, seen=0.5).kernels
    assert kernel.flops == 2 * 2 * 8 * 4 * 128 * 256
    assert kernel.read == 2 * (8 * 4 * 128 + 2 * 8 * 256 * 128)
    assert kernel.written == 2 * 8 * 4 * 128
    for name, other in (("xla.gpu.triton", "else"), ("mha_forward", "another of Triton's")):
        with pytest.raises(ValueError, match="add its formula"):
            _ = hlo_cost.Program(text.replace(name, other)).kernels
