"""LoRA: nothing at the start, torch's two-matrix form when merged, lower losses."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.baselines.adapters import merged
from nt_jax.baselines.lora import TARGETS, Lora
from nt_jax.data.packing import Row, Shape, pack_alone
from nt_jax.errors import DataError
from nt_jax.models.leaves import get_leaf, leaf_names
from nt_jax.models.transformer import logits
from tests import torch_twin
from tests.baselines import made_up
from tests.export.changes import changes

EVERY = Lora(rank=3, alpha=4.5, leaves=tuple(TARGETS))  # a strength of 1.5
TOKENS = np.array([[5, 9, 30, 11, 7, 60], [8, 3, 4, 90, 12, 2]], np.int32)
TORCH = {
    "attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj", "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj", "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("mixed_dtypes")


def fresh(lm, adapter: Lora, seed: int = 0):
    """The adapter before it does anything."""
    return adapter.fresh(lm.config, lm.ones_LF.dtype, seed)


def filled(lm, adapter: Lora, size: float = 0.2):
    """Parameters with random B, so that they do something."""
    generator, params = np.random.default_rng(0), fresh(lm, adapter)
    fill = lambda x: jnp.asarray((size * generator.standard_normal(x.shape)).astype(x.dtype))  # noqa: E731
    return {n: fill(x) if n.endswith("/b") else x for n, x in sorted(params.items())}


@contextlib.contextmanager
def adapted(twin, adapter: Lora, params, strength: float):
    """Within it, every adapted torch layer adds strength * B(A(x)) to its output."""
    import torch

    def hook(a, b):
        down, up = torch.tensor(np.asarray(a)), torch.tensor(np.asarray(b))
        return lambda _, args, out: out + strength * (args[0] @ down) @ up

    hooks = [
        block.get_submodule(TORCH[name.removeprefix("blocks.")]).register_forward_hook(
            hook(params[f"{name}/a"][layer], params[f"{name}/b"][layer])
        )
        for name in adapter.leaves
        for layer, block in enumerate(twin.model.layers)
    ]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


# --- the adapter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fresh_adapter_is_the_identity_to_the_bit(dtype):
    lm = made_up.model("qwen2", dtype)
    new = merged(lm, EVERY, fresh(lm, EVERY))
    for name in leaf_names(lm):
        np.testing.assert_array_equal(get_leaf(new, name), get_leaf(lm, name))
    assert changes(lm, new) == {}


def test_fresh_factors_have_the_stated_spread_and_seed():
    lm, wide = made_up.model(), dataclasses.replace(EVERY, rank=40)
    draws = [fresh(lm, wide, seed) for seed in (0, 0, 1)]
    a = np.asarray(draws[0]["blocks.mlp.down/a"])
    assert a.shape == (2, 48, 40) and a.std() * 48**0.5 == pytest.approx(1, abs=0.05)
    assert not np.asarray(draws[0]["blocks.mlp.down/b"]).any()
    np.testing.assert_array_equal(a, draws[1]["blocks.mlp.down/a"])
    assert np.abs(a - draws[2]["blocks.mlp.down/a"]).max() > 0.01


@pytest.mark.parametrize("target", [*TARGETS, "all"])
def test_merged_weights_compute_what_torch_computes_beside_the_old_ones(target):
    torch = pytest.importorskip("torch")
    lm, twin = made_up.model(), torch_twin.load("qwen2")
    leaves = tuple(TARGETS) if target == "all" else (target,)
    adapter = dataclasses.replace(EVERY, leaves=leaves)
    params = filled(lm, adapter)
    found = logits(merged(lm, adapter, params), TOKENS, TOKENS > 0)
    with adapted(twin, adapter, params, 1.5), torch.no_grad():
        expected = torch_twin.logits(twin, TOKENS, np.ones_like(TOKENS)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    before = logits(lm, TOKENS, TOKENS > 0)
    assert np.abs(found - before).max() > 0.05


def test_a_small_change_of_bfloat16_weights_is_summed_in_float32():
    lm = made_up.model("qwen2", "bfloat16")
    adapter = dataclasses.replace(EVERY, leaves=("blocks.mlp.down",))
    params = filled(lm, adapter, size=0.05)
    old = get_leaf(lm, "blocks.mlp.down")
    a, b = (np.asarray(params[f"blocks.mlp.down/{x}"], np.float64) for x in "ab")
    exact = np.asarray(old, np.float64) + 1.5 * np.einsum("LIr,LrO->LIO", a, b)
    new = np.asarray(get_leaf(merged(lm, adapter, params), "blocks.mlp.down"), np.float64)
    assert (np.abs(new - exact) <= np.abs(exact) * 2.0**-8 * 1.001).all()
    assert list(changes(lm, merged(lm, adapter, params))) == [
        f"model.layers.{n}.mlp.down_proj.weight" for n in (0, 1)
    ]


# --- training -------------------------------------------------------------------------------------


def packed(prompts, answers, stretches: int = 1):
    """Rows in sequences of their own, [S, B, ...]; the last sequence is filler."""
    rows = [Row(*row) for row in zip(prompts, answers, strict=True)]
    side = len(rows) // stretches + 1
    longest = max(row.tokens for row in rows)
    return pack_alone(rows, Shape(stretches, side, longest, 6, 1))


def batch(seed: int, width: int, rows: int, vocab: int = 300, stretches: int = 1):
    prompts, answers = (made_up.rows(seed + n, rows, width, vocab) for n in (0, 1))
    return packed(prompts, [answer[:6] for answer in answers], stretches)


def test_a_bfloat16_model_keeps_its_type_and_nearly_its_losses():
    found = {}
    for dtype in ("float32", "bfloat16"):
        lm = made_up.model("qwen2", dtype)
        found[dtype] = made_up.adapter_losses(lm, EVERY, 3, 0.01)
        params = filled(lm, EVERY)
        assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
        assert {x.dtype.name for x in jax.tree.leaves(merged(lm, EVERY, params).frozen)} == {dtype}
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=2e-2)


def test_training_lowers_both_losses():
    losses = np.array(made_up.adapter_losses(made_up.model(), Lora(rank=4), 50, 0.03))
    assert (losses[-1] < 0.5 * losses[0]).all()


@pytest.mark.parametrize("change", [{"leaves": ("blocks.mlp.dawn",)}, {"leaves": ()}, {"rank": 0}])
def test_what_cannot_be_adapted_is_said(change):
    with pytest.raises(DataError, match=r"LoRA cannot adapt .* Choose a rank of 1"):
        dataclasses.replace(Lora(), **change)
