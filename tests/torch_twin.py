"""The same tiny checkpoints in torch, run by transformers: the oracle of numbers."""

import contextlib
import functools

import numpy as np
import pytest

from tests import tiny


@functools.cache
def load(family: str, kv_heads: int = 2):
    """The torch model of `tiny.checkpoint(family, kv_heads)`."""
    pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny.checkpoint(family, kv_heads))


@contextlib.contextmanager
def scaled(model, scale_LF):
    """Within it, what enters each layer's down projection is multiplied by a row of scale_LF."""
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, s=scale_F: (args[0] * s,))
        for layer, scale_F in zip(model.model.layers, scale_LF, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def logits(model, token_BT, mask_BT):
    """torch logits_BTV, with positions counted over real tokens only."""
    import torch

    mask = torch.from_numpy(np.asarray(mask_BT)).long()
    position = (mask.cumsum(1) - 1).clamp(min=0)
    tokens = torch.from_numpy(np.asarray(token_BT)).long()
    return model(tokens, attention_mask=mask, position_ids=position).logits


def logits_and_neurons(model, token_BT, mask_BT) -> tuple[np.ndarray, np.ndarray]:
    """(logits_BTV, what enters each down projection [L, B, T, F])."""
    import torch

    seen = []
    hooks = [
        layer.mlp.down_proj.register_forward_hook(lambda _, args, __: seen.append(args[0]))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        logits_BTV = logits(model, token_BT, mask_BT).numpy()
    for hook in hooks:
        hook.remove()
    return logits_BTV, np.stack([act.numpy() for act in seen])


def answers(model, token_BT, mask_BT, new_tokens: int) -> np.ndarray:
    """Greedy tokens [B, new_tokens or fewer] by `generate`; torch pads rows after their EOS."""
    import torch

    out = model.generate(
        torch.from_numpy(token_BT).long(),
        attention_mask=torch.from_numpy(mask_BT).long(),
        max_new_tokens=new_tokens,
        do_sample=False,
    )
    return out[:, token_BT.shape[1] :].numpy()
