"""Attribution by the contrastive score: the slopes of the cells, and what they say of neurons."""

import json
from pathlib import Path

import numpy as np

from nt_jax.attribution import signal
from nt_jax.attribution.contrastive import contrastive_score
from nt_jax.attribution.signal import ROUNDING, check_scores, low_overlap
from nt_jax.attribution.store import save_set
from nt_jax.config.method import TuneConfig
from nt_jax.config.registry import CONTRASTIVE
from nt_jax.console import say
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import NeuronSet
from nt_jax.run.attribute import SETS, active_at_end
from nt_jax.train.cell_slopes import FILE, CellSlopes, cell_slopes
from nt_jax.train.cells import ATTACKED_HARMFUL, CELLS, OWN, cell_rows
from nt_jax.train.pools import Pools
from nt_jax.train.slopes import every_neuron
from nt_jax.train.tuned_layers import TunedLayers

ACTIVE = 4  # attacked prompts that the report's tokens are read from


def contrast(
    model: ChatModel, pools: Pools, first_layer: int, tune: TuneConfig, folder: Path
) -> str:
    """Score the layers from `first_layer` on, the slopes kept in `folder`; what to say about it."""
    layers, width = model.lm.config.layers, model.lm.config.neurons
    asked = tune.metric_requests or TuneConfig().metric_requests  # 0: tuning needs none
    cells = cell_rows(pools, asked // len(CELLS))
    if not (path := folder / FILE).exists():
        tuned = TunedLayers.of(model.lm, every_neuron(layers, width, first_layer))
        cell_slopes(model, tuned, cells, tune).save(path)
    slopes = CellSlopes.load(path)
    check_slopes(slopes)
    score_LF = np.zeros((layers, width), np.float32)
    score_LF[first_layer:] = scores_of(slopes).reshape(-1, width)
    prompts = [model.encode(prompt) for prompt, _ in cells[ATTACKED_HARMFUL][:ACTIVE]]
    active_LF = np.mean([active_at_end(model.lm, ids) for ids in prompts], axis=0)
    for name, sign in zip(SETS, (1, -1), strict=True):
        save_set(folder / f"{name}.npz", sign * score_LF, active_LF)
    overlap, counts = split_half(slopes), {name: len(cells[name]) for name in CELLS}
    facts = {"score": dict.fromkeys(SETS, CONTRASTIVE), "cells": counts, "split_half": overlap}
    (folder / "examples.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if warning := low_overlap(overlap, "the prompts"):
        say("warning", warning)
    return (
        f"{sum(counts.values())} prompts of four cells   score {CONTRASTIVE}, "
        f"{slopes.difference_P.size:,} neurons   two halves of the prompts share "
        f"{overlap['shared']:.0%} of their best {overlap['top']:,} (chance {overlap['chance']:.0%})"
    )


def scores_of(slopes: CellSlopes) -> np.ndarray:
    """The contrastive score of every neuron whose slopes these are."""
    return contrastive_score(slopes.difference_P, slopes.unwanted_MP)


def check_slopes(slopes: CellSlopes) -> None:
    """Raises a DataError where slopes are not finite, or no neuron tells harmful from harmless."""
    for name, slope_MP in slopes.cells.items():
        if not np.isfinite(slope_MP).all():
            check_scores(slope_MP, f"the slopes of {name.replace('_', ' ')} prompts")
    difference_P = slopes.difference_P
    largest = max(float(np.abs(slope_MP).max(initial=0)) for slope_MP in slopes.cells.values())
    noise = ROUNDING * float(np.finfo(difference_P.dtype).eps) * largest
    if float(np.abs(difference_P).max()) <= noise:
        check_scores(np.zeros_like(difference_P), "the slopes of harmful and harmless prompts")


def split_half(slopes: CellSlopes) -> dict[str, float]:
    """How many of the best neurons two halves of the prompts share: a score of all prompts?"""
    one, other = (
        CellSlopes({name: _half(name, rows, start) for name, rows in slopes.cells.items()})
        for start in (0, 1)
    )
    return signal.split_half(np.abs(scores_of(one)), np.abs(scores_of(other)))


def _half(cell: str, slope_MP: np.ndarray, start: int) -> np.ndarray:
    """The slopes of every other prompt; own answers have two each, one after the other's all."""
    parts = np.split(slope_MP, 2) if cell == OWN else [slope_MP]
    return np.concatenate([part[start::2] for part in parts])


def chosen_slopes(
    attributed: Path, neurons: NeuronSet, first_layer: int, width: int
) -> CellSlopes | None:
    """The slopes of the chosen neurons; None where attribution measured none."""
    if not (path := attributed / FILE).exists():
        return None
    layer_P, index_P = np.asarray(neurons.layer_P), np.asarray(neurons.index_P)
    return CellSlopes.load(path).of((layer_P - first_layer) * width + index_P)
