"""(IA)^3: nothing at the start, and what torch computes with scaled projections when merged."""

import contextlib

import jax.numpy as jnp
import numpy as np
import pytest

from nt_jax.baselines.adapters import merged
from nt_jax.baselines.ia3 import DOWN, FULL, Ia3
from nt_jax.models.leaves import get_leaf, leaf_names
from nt_jax.models.transformer import logits
from tests import torch_twin
from tests.baselines import made_up

TOKENS = np.array([[5, 9, 30, 11, 7, 60], [8, 3, 4, 90, 12, 2]], np.int32)
PROJECTIONS = {"attn.k": "k_proj", "attn.v": "v_proj"}


@contextlib.contextmanager
def scaled(twin, params):
    """Within it, the torch model computes what the paper writes: l_k K, l_v V, l_ff h."""
    import torch

    def of(name: str, layer: int):
        return torch.tensor(np.asarray(params[f"blocks.{name}"])[layer].reshape(-1).copy())

    def after(factor):
        return lambda _, __, out: out * factor

    def before(factor):
        return lambda _, args: (args[0] * factor,)

    hooks = []
    for n, layer in enumerate(twin.model.layers):
        for name, projection in PROJECTIONS.items():
            if f"blocks.{name}" in params:
                module = layer.self_attn.get_submodule(projection)
                hooks.append(module.register_forward_hook(after(of(name, n))))
        down = before(of("mlp.down", n))
        hooks.append(layer.mlp.down_proj.register_forward_pre_hook(down))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama3"])  # biases, norms, neither
@pytest.mark.parametrize("modules", [DOWN, FULL])
def test_merged_weights_compute_what_torch_computes_with_scaled_projections(family, modules):
    torch = pytest.importorskip("torch")
    lm, twin, adapter = made_up.model(family), torch_twin.load(family), Ia3(modules)
    noise, fresh = np.random.default_rng(0), adapter.fresh(lm.config, jnp.float32, 0)
    params = {n: x + noise.normal(0, 0.5, x.shape).astype(np.float32) for n, x in fresh.items()}
    found = logits(merged(lm, adapter, params), TOKENS, TOKENS > 0)
    with scaled(twin, params), torch.no_grad():
        expected = torch_twin.logits(twin, TOKENS, np.ones_like(TOKENS)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found - logits(lm, TOKENS, TOKENS > 0)).max() > 0.05


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_fresh_adapter_is_the_identity_to_the_bit(dtype):
    lm, adapter = made_up.model("qwen2", dtype), Ia3(FULL)
    new = merged(lm, adapter, adapter.fresh(lm.config, jnp.float32, 0))
    for name in leaf_names(lm):
        np.testing.assert_array_equal(get_leaf(new, name), get_leaf(lm, name))


def test_factors_keep_to_their_bounds():
    lm, adapter = made_up.model(), Ia3(bounds=(0.0, 1.5), first=1)
    params = {"blocks.mlp.down": jnp.linspace(-1, 3, 48)[None]}
    found = adapter.at_strength(params, 1.0)["blocks.mlp.down"]
    assert float(found.min()) == 0.0 and float(found.max()) == 1.5
    new = merged(lm, adapter, params, 0.5)
    expected = np.clip(1 + 0.5 * (np.linspace(-1, 3, 48) - 1), 0, 1.5)
    ratio = np.asarray(get_leaf(new, "blocks.mlp.down")[1] / get_leaf(lm, "blocks.mlp.down")[1])
    np.testing.assert_allclose(ratio, np.repeat(expected[:, None], 32, 1), rtol=1e-4, atol=1e-5)
