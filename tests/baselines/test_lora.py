"""LoRA: nothing at the start, torch's two-matrix form when merged, exact gradients, lower loss."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.baselines import lora
from nt_jax.baselines.lora import (
    TARGETS,
    LoraOptions,
    init_adapter,
    merged,
    train_lora,
)
from nt_jax.data.packing import Row, Shape, pack_alone
from nt_jax.errors import DataError, RunError
from nt_jax.export.hf import changes
from nt_jax.models.leaves import get_leaf, leaf_names
from nt_jax.models.transformer import logits
from tests import plain, torch_twin
from tests.baselines import made_up
from tests.baselines.made_up import fit_lora, lora_batches

EVERY = LoraOptions(rank=3, alpha=6.0, targets=tuple(TARGETS))
TOKENS = np.array([[5, 9, 30, 11, 7, 60], [8, 3, 4, 90, 12, 2]], np.int32)
TORCH = {
    "attn.q": "self_attn.q_proj", "attn.k": "self_attn.k_proj", "attn.v": "self_attn.v_proj",
    "attn.o": "self_attn.o_proj", "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("mixed_dtypes")


def filled(adapter, seed: int = 0, size: float = 0.2):
    """The adapter with random B, so that it does something."""
    generator = np.random.default_rng(seed)
    fill = lambda x: (size * generator.standard_normal(x.shape)).astype(x.dtype)  # noqa: E731
    return {name: {"a": f["a"], "b": fill(f["b"])} for name, f in sorted(adapter.items())}


@contextlib.contextmanager
def adapted(twin, adapter, strength: float):
    """Within it, every adapted torch layer adds strength * B(A(x)) to its output."""
    import torch

    def hook(a, b):
        down, up = torch.tensor(np.asarray(a)), torch.tensor(np.asarray(b))
        return lambda _, args, out: out + strength * (args[0] @ down) @ up

    hooks = [
        block.get_submodule(TORCH[name.removeprefix("blocks.")]).register_forward_hook(
            hook(factors["a"][layer], factors["b"][layer])
        )
        for name, factors in adapter.items()
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
    new = merged(lm, init_adapter(lm, EVERY), 2.0)
    for name in leaf_names(lm):
        np.testing.assert_array_equal(get_leaf(new, name), get_leaf(lm, name))
    assert changes(lm, new) == {}


def test_fresh_factors_have_the_stated_spread_and_seed():
    lm = made_up.model()
    draws = [init_adapter(lm, dataclasses.replace(EVERY, rank=40, seed=s)) for s in (0, 0, 1)]
    a = np.asarray(draws[0]["blocks.mlp.down"]["a"])
    assert a.shape == (2, 48, 40) and a.std() * 48**0.5 == pytest.approx(1, abs=0.05)
    assert not np.asarray(draws[0]["blocks.mlp.down"]["b"]).any()
    np.testing.assert_array_equal(a, draws[1]["blocks.mlp.down"]["a"])
    assert np.abs(a - draws[2]["blocks.mlp.down"]["a"]).max() > 0.01


@pytest.mark.parametrize("target", [*TARGETS, "all"])
def test_merged_weights_compute_what_torch_computes_beside_the_old_ones(target):
    torch = pytest.importorskip("torch")
    lm, twin = made_up.model(), torch_twin.load("qwen2")
    targets = tuple(TARGETS) if target == "all" else (target,)
    adapter = filled(init_adapter(lm, dataclasses.replace(EVERY, targets=targets)))
    assert set(adapter) == set(targets)
    found = logits(merged(lm, adapter, 1.5), TOKENS, TOKENS > 0)
    with adapted(twin, adapter, 1.5), torch.no_grad():
        expected = torch_twin.logits(twin, TOKENS, np.ones_like(TOKENS)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    before = logits(lm, TOKENS, TOKENS > 0)
    assert np.abs(found - before).max() > 0.05


def test_a_small_change_of_bfloat16_weights_is_summed_in_float32():
    lm = made_up.model("qwen2", "bfloat16")
    options = dataclasses.replace(EVERY, targets=("blocks.mlp.down",))
    adapter = filled(init_adapter(lm, options), size=0.05)
    factors, old = adapter["blocks.mlp.down"], get_leaf(lm, "blocks.mlp.down")
    a, b = (np.asarray(factors[x], np.float64) for x in "ab")
    exact = np.asarray(old, np.float64) + 2.0 * np.einsum("LIr,LrO->LIO", a, b)
    new = np.asarray(get_leaf(merged(lm, adapter, 2.0), "blocks.mlp.down"), np.float64)
    assert (np.abs(new - exact) <= np.abs(exact) * 2.0**-8 * 1.001).all()


# --- training -------------------------------------------------------------------------------------


def packed(prompts, answers, stretches: int = 1):
    """Rows in sequences of their own, [S, B, ...]; the last sequence is filler."""
    rows = [Row(*row) for row in zip(prompts, answers, strict=True)]
    side = len(rows) // stretches + 1
    longest = max(row.tokens for row in rows)
    return pack_alone(rows, Shape(stretches, side, longest, 6, 1))


def first(batch):
    """The first stretch."""
    return jax.tree.map(lambda leaf: leaf[0], batch)


def batch(seed: int, width: int, rows: int, vocab: int = 300, stretches: int = 1):
    prompts, answers = (made_up.rows(seed + n, rows, width, vocab) for n in (0, 1))
    return packed(prompts, [answer[:6] for answer in answers], stretches)


def test_gradients_are_those_of_finite_differences(x64):
    lm = plain.random_model(dtype=jnp.float64)
    adapter = filled(init_adapter(lm, EVERY))
    rows = first(batch(3, 8, 4, vocab=40))
    value = jax.jit(lambda x: lora.loss(x, lm, rows, 1.5, 0.9))
    slope = jax.jit(jax.grad(value))(adapter)
    for name in adapter:
        for factor in "ab":
            way = np.random.default_rng(1).standard_normal(adapter[name][factor].shape)
            sides = []
            for size in (1e-5, -1e-5):
                nudged = {**adapter[name], factor: adapter[name][factor] + size * way}
                sides.append(float(value({**adapter, name: nudged})))
            expected = (sides[0] - sides[1]) / 2e-5
            found = float((slope[name][factor] * way).sum())
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_loss_is_that_of_the_merged_model_answer_by_answer(x64):
    lm = plain.random_model(dtype=jnp.float64)
    adapter = filled(init_adapter(lm, EVERY))
    prompts, answers = ([5, 9, 30], [8]), ([21, 6, 2], [12, 7, 9, 2])
    rows = first(packed(prompts, answers))
    new = merged(lm, adapter, 1.5)
    expected = np.mean([
        -plain.plain_answer_log_probs(new, prompt, answer).mean()
        for prompt, answer in zip(prompts, answers, strict=True)
    ])  # fmt: skip
    assert float(jax.jit(lora.loss)(adapter, lm, rows, 1.5, 1.0)) == pytest.approx(
        expected, rel=1e-9
    )


def test_a_step_weighs_both_sides_and_goes_down_adams_way():
    lm, options = made_up.model(), LoraOptions(steps=1, safety_weight=0.3, learning_rate=0.01)
    sides = batch(3, 8, 4), batch(5, 8, 4, stretches=2)
    ((new, losses),) = train_lora(lm, lambda step: sides, options)
    old = init_adapter(lm, options)
    strength, decay = np.float32(2.0), np.float32(1.0)
    slope = jax.jit(jax.value_and_grad(lora.loss))
    useful_parts = [jax.tree.map(lambda leaf, n=n: leaf[n], sides[1]) for n in (0, 1)]
    alone = [slope(old, lm, b, strength, decay) for b in (first(sides[0]), *useful_parts)]
    safe, useful = float(alone[0][0]), float(alone[1][0] + alone[2][0])
    assert losses["safety"] == pytest.approx(safe, rel=1e-5)
    assert losses["utility"] == pytest.approx(useful, rel=1e-5)
    assert losses["total"] == pytest.approx(0.3 * safe + 0.7 * useful, rel=1e-5)
    parts = [np.asarray(g["blocks.mlp.down"]["b"]) for _, g in alone]
    slope = 0.3 * parts[0] + 0.7 * (parts[1] + parts[2])
    clear = np.abs(slope) > 1e-3 * np.abs(slope).max()
    assert clear.mean() > 0.9
    moved = np.asarray(new["blocks.mlp.down"]["b"])
    np.testing.assert_allclose(moved[clear], -0.01 * np.sign(slope)[clear], rtol=0.02)
    np.testing.assert_array_equal(
        new["blocks.mlp.down"]["a"], old["blocks.mlp.down"]["a"]
    )  # B is 0


def test_a_bfloat16_model_keeps_its_type_and_nearly_its_losses():
    options = dataclasses.replace(EVERY, steps=3, learning_rate=0.01)
    examples, found = made_up.examples(70, 3, 3), {}
    for dtype in ("float32", "bfloat16"):
        lm = made_up.model("qwen2", dtype)
        adapter, history = fit_lora(lm, lora_batches(lm, examples, 3, 6), options)
        found[dtype] = [row["total"] for row in history]
        assert {x.dtype.name for x in jax.tree.leaves(adapter)} == {"float32"}
        new = merged(lm, adapter, options.alpha / options.rank)
        assert {x.dtype.name for x in jax.tree.leaves(new.frozen)} == {dtype}
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=2e-2)


def test_training_lowers_both_losses_and_ends_in_plain_weights():
    lm, options = made_up.model(), LoraOptions(steps=50, learning_rate=0.03, rank=4)
    examples = made_up.examples(70, 3, 3)
    batch_at = lora_batches(lm, examples, 3, 6)
    adapter, history = fit_lora(lm, batch_at, options)
    assert len(history) == 50
    for side in ("safety", "utility"):
        assert history[-1][side] < 0.5 * history[0][side]
    new = merged(lm, adapter, options.alpha / options.rank)
    assert list(changes(lm, new)) == [f"model.layers.{n}.mlp.down_proj.weight" for n in (0, 1)]
    _, (again,) = fit_lora(new, batch_at, dataclasses.replace(options, steps=1))
    assert again["total"] < history[-1]["total"] * 1.05
    _, repeated = fit_lora(lm, batch_at, dataclasses.replace(options, steps=2))
    assert repeated == history[:2]


@pytest.mark.parametrize(
    "change", [{"targets": ("blocks.mlp.dawn",)}, {"targets": ()}, {"rank": 0}, {"steps": 0}]
)
def test_what_cannot_be_adapted_is_said(change):
    with pytest.raises(DataError, match=r"LoRA cannot adapt .* Choose 1 or more"):
        init_adapter(made_up.model(), dataclasses.replace(LoraOptions(), **change))


def test_a_diverged_run_is_refused():
    lm = made_up.model()
    batch_at = lora_batches(lm, made_up.examples(70, 3, 3), 3, 6)
    with pytest.raises(RunError, match=r"diverged in step \d"):
        fit_lora(lm, batch_at, LoraOptions(steps=5, learning_rate=1e38))
