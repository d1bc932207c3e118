"""Small examples of random tokens, and residual streams of the tiny models as torch sees them."""

import dataclasses
import functools

import jax
import numpy as np

from nt_jax.baselines.examples import Examples
from nt_jax.baselines.lora import BatchAt, LoraOptions, train_lora
from nt_jax.checkpoints.checkpoint import load_weights
from nt_jax.data.batching import draw
from nt_jax.data.packing import PackedBatch, Row, Shape, pack_alone
from nt_jax.mesh import make_mesh, sharding
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


def lora_batches(lm, examples: Examples, rows: int, answer_tokens: int) -> BatchAt:
    """Batches of so many random examples of each kind a step, each in a sequence of its own."""
    kinds = {
        "safety": (examples.harmful, examples.refusals),
        "utility": (examples.harmless, examples.answers),
    }

    def one(kind: str, step: int) -> PackedBatch:
        pairs = zip(*kinds[kind], strict=True)
        every = [Row(prompt, answer[:answer_tokens]) for prompt, answer in pairs]
        shape = Shape(1, rows, max(row.tokens for row in every), answer_tokens, 1)
        picked = draw(0, f"lora-{kind}", step, len(every), rows)
        batch = pack_alone([every[row] for row in picked], shape)
        return jax.device_put(batch, sharding(lm.mesh, "SB"))

    return lambda step: (one("safety", step), one("utility", step))


def fit_lora(lm, batch_at: BatchAt, options: LoraOptions):
    """(the adapter after all steps, the losses before each)."""
    made = list(train_lora(lm, batch_at, options))
    return made[-1][0], [losses for _, losses in made]


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
