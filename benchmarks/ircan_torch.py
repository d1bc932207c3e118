"""IRCAN's attribution (Shi et al., NeurIPS 2024) in torch: the reference for scores and speed.

Written from the description of the algorithm: one layer at a time, all its neurons move together
from their values on the bare question to those on the attacked one at the last prompt token; the
whole prompt is run once per node, the m nodes as one batch; the gradient is taken at the end point,
which weighs node i by i/m.
"""

import numpy as np
import torch


def _neurons(model, prompt: list[int]) -> list[torch.Tensor]:
    """What enters each layer's down projection at the last token of a prompt."""
    seen: list[torch.Tensor] = []
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1]))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(torch.tensor([prompt], device=model.device), logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    return seen


def layer_scores(
    model,
    question: list[int],
    attacked: list[int],
    answer: list[int],
    layer: int,
    steps: int,
    rows: int,
) -> np.ndarray:
    """Scores of one layer's neurons [F]: alpha weighting, left nodes, exp(mean log P(answer)).

    With one answer token this is IRCAN's target, the probability of the first token. `rows` nodes
    are one batch; IRCAN takes all, which a GPU that also holds an 8B model has no room for.
    """
    v_q, v_pq = _neurons(model, question)[layer], _neurons(model, attacked)[layer]
    end = v_pq.clone().float().requires_grad_()
    total = torch.zeros_like(end)
    for alpha in (torch.arange(steps, device=end.device)[:, None] / steps).split(rows):
        path = v_q.float() + alpha * (end - v_q.float())
        target = _targets(model, attacked, answer, layer, path).sum()
        total += torch.autograd.grad(target, end)[0]
    return ((v_pq.float() - v_q.float()) * total / steps).cpu().numpy()


def _targets(model, attacked: list[int], answer: list[int], layer: int, path) -> torch.Tensor:
    """P(answer) with the layer's neurons at the last prompt token set to each row of `path`."""
    at = len(attacked) - 1

    def patch(_, args):
        value = args[0].clone()
        value[:, at] = path.to(value.dtype)
        return (value,)

    row = torch.tensor([attacked + answer[:-1]], device=model.device).expand(len(path), -1)
    hook = model.model.layers[layer].mlp.down_proj.register_forward_pre_hook(patch)
    try:
        logits = model(row, logits_to_keep=len(answer), use_cache=False).logits.float()
    finally:
        hook.remove()
    wanted = torch.tensor(answer, device=logits.device)[None, :, None].expand(len(path), -1, 1)
    return torch.log_softmax(logits, dim=-1).gather(2, wanted)[..., 0].mean(dim=1).exp()
