"""Small examples of random tokens, and residual streams of the tiny models as torch sees them."""

import dataclasses
import functools

import jax
import numpy as np

from nt_jax.baselines.adapters import Form
from nt_jax.baselines.descent import adapter_step
from nt_jax.baselines.examples import Examples
from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.data.packing import PackedBatch, Row, Shape, pack_alone
from nt_jax.mesh import make_mesh, sharding
from nt_jax.train.maml import MetaOptions, make_optimiser
from tests import tiny, torch_twin

SURE = (41, 52)


def rows(seed: int, count: int, longest: int = 9, vocab: int = 300, shortest: int = 1):
    """`count` lists of 1 to `longest` random tokens."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(shortest, longest + 1, count)
    return [generator.integers(3, vocab, n).tolist() for n in lengths]


def examples(seed: int = 0, harmful: int = 5, harmless: int = 4, vocab: int = 300) -> Examples:
    """Random ones."""
    draw = functools.partial(rows, vocab=vocab)
    return Examples(
        harmful=draw(seed, harmful), refusals=draw(seed + 1, harmful),
        harmless=draw(seed + 2, harmless), answers=draw(seed + 3, harmless),
    )  # fmt: skip


def adapter_sides(lm, rows_: int, answer_tokens: int) -> dict[str, PackedBatch]:
    """Random rows of each side of an adapter's loss, each in a sequence of its own."""

    def one(seed: int) -> PackedBatch:
        pairs = zip(rows(seed, rows_, vocab=40), rows(seed + 1, rows_, vocab=40), strict=True)
        every = [Row(prompt, answer[:answer_tokens]) for prompt, answer in pairs]
        shape = Shape(1, rows_, max(row.tokens for row in every), answer_tokens, 1)
        return jax.device_put(pack_alone(every, shape), sharding(lm.mesh, "SB"))

    return {"global_safety": one(5), "global_utility": one(9)}


def adapter_losses(lm, adapter, steps: int, rate: float = 1e-3) -> list[list[float]]:
    """(safety loss, utility loss) before each of so many of Adam's steps on the same rows."""
    params = adapter.fresh(lm.config, lm.ones_LF.dtype, 0)
    form, adam = Form.of(adapter, params), make_optimiser("adam", 1.0)
    theta_P = jax.device_put(form.vector(params), sharding(lm.mesh, ""))
    moments = jax.device_put(adam.init(theta_P), sharding(lm.mesh, ""))
    sides, upper, found = adapter_sides(lm, 4, 6), lm.above(adapter.first), []
    for _ in range(steps):
        theta_P, moments, losses = adapter_step(
            theta_P, moments, {}, upper, sides,
            options=MetaOptions(meta_lr=rate), form=form, optimiser=adam,
        )  # fmt: skip
        found.append([float(losses[f"{side}_loss"]) for side in ("safety", "utility")])
    return found


@functools.cache
def model(family: str = "qwen2", dtype: str = "float32"):
    """A tiny checkpoint, loaded."""
    return load_weights(str(tiny.checkpoint(family)), dtype, make_mesh())


def states(family: str, ids) -> np.ndarray:
    """What leaves each layer of the torch model on one unpadded sequence, [L, T, D]."""
    import torch

    twin, seen = torch_twin.load(family), []
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in twin.model.layers
    ]
    with torch.no_grad():
        torch_twin.logits(twin, np.array([list(ids)]), np.ones((1, len(ids))))
    for hook in hooks:
        hook.remove()
    return np.stack([out.numpy().reshape(len(ids), -1) for out in seen])


def hf_hidden_states(family: str, ids) -> np.ndarray:
    """transformers' own hidden_states[1:], the last one after the final norm, [L, T, D]."""
    import torch

    with torch.no_grad():
        out = torch_twin.load(family)(torch.tensor([list(ids)]), output_hidden_states=True)
    return np.stack([state[0].numpy() for state in out.hidden_states[1:]])


def in_double(lm):
    """`lm` in float64; only where 64-bit numbers are on."""
    up = functools.partial(jax.tree.map, lambda leaf: leaf.astype("float64"))
    return dataclasses.replace(lm, frozen=up(lm.frozen), scale=up(lm.scale))
