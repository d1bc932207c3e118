"""Small examples of random tokens, and residual streams of the tiny models as torch sees them."""

import dataclasses
import functools

import jax
import numpy as np

from nt_jax.baselines.examples import Examples
from nt_jax.checkpoints.checkpoint import load_model
from nt_jax.mesh import make_mesh
from tests import tiny, torch_twin

SURE = (41, 52)


def rows(seed: int, count: int, longest: int = 9, vocab: int = 300, shortest: int = 1):
    """`count` lists of 1 to `longest` random tokens."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(shortest, longest + 1, count)
    return [generator.integers(3, vocab, n).tolist() for n in lengths]


def examples(seed: int = 0, harmful: int = 5, harmless: int = 4, vocab: int = 300) -> Examples:
    """Random ones; the second harmful prompt was refused, so it has no compliant answer."""
    draw = functools.partial(rows, vocab=vocab)
    compliant = draw(seed + 4, harmful)
    compliant[1] = []
    return Examples(
        harmful=draw(seed, harmful), refusals=draw(seed + 1, harmful),
        harmless=draw(seed + 2, harmless), answers=draw(seed + 3, harmless), compliant=compliant,
    )  # fmt: skip


@functools.cache
def model(family: str = "qwen2", dtype: str = "float32"):
    """A tiny checkpoint, loaded."""
    return load_model(str(tiny.checkpoint(family)), dtype, make_mesh())


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
