"""LoRA for PEFT and vLLM: exact, with as much rank as a layer has scaled neurons.

A factor theta of neuron i adds (theta - 1) times column i to down_proj's weight, a change of rank
one. So a layer's change is exact with A = one-hot rows of its n scaled neurons and
B = W[:, idx] (theta - 1), or, where n is more than the D rows of W, A = W (theta - 1) and B = the
identity. In bfloat16 and float16 that product is rounded, as the weights were, and the other matrix
is exact. `rank` cuts it: the truncated SVD, with its error said. F neurons, D model width, n scaled
neurons, r rank.
"""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.checkpoints.keymap import DOWN
from nt_jax.checkpoints.tensors import DTYPES
from nt_jax.export.folder import ExportReport, Wanted, by_first
from nt_jax.export.peft import (
    TARGET,
    base_for_peft,
    base_revision,
    down_modules,
    scaled_layers,
    write_adapter,
)
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import Factors

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank may be


@dataclass(frozen=True)
class LayerChange:
    """W + B A of one layer: a_rF [r, F], b_Dr [D, r], float32, and what a cut rank has lost."""

    layer: int
    a_rF: np.ndarray
    b_Dr: np.ndarray
    lost: float = 0.0  # Frobenius norm of what is left out, squared
    whole: float = 0.0  # of the exact change, squared

    @property
    def rank(self) -> int:
        """How many directions the change has."""
        return len(self.a_rF)


@by_first
def write(model: ChatModel, factors: Factors, out: Path, wanted: Wanted) -> ExportReport:
    """The factors as a LoRA adapter in the type of down_proj (float32 from GGUF, or as wanted).

    Raises a ConfigError where every factor is 1.
    """
    size, checkpoint = model.checkpoint.config, model.checkpoint
    changes = list(layer_changes(checkpoint, factors, wanted.rank))
    modules, tensors = down_modules(size.layers), {}
    kept = np.dtype(np.float32)
    if wanted.dtype == "source":
        kept = DTYPES.get(checkpoint.tensors[f"{modules[0]}.weight"].dtype, kept)
    for change in changes:
        name = modules[change.layer]
        tensors[f"{name}.lora_A.weight"] = change.a_rF.astype(kept)
        tensors[f"{name}.lora_B.weight"] = change.b_Dr.astype(kept)
    ranks = {f"layers.{change.layer}.mlp.{TARGET}": change.rank for change in changes}
    top = max(ranks.values())
    pattern = {name: rank for name, rank in ranks.items() if rank != top}
    fields = {
        "r": top, "lora_alpha": top, "rank_pattern": pattern, "alpha_pattern": pattern,
        "layers_to_transform": [change.layer for change in changes], "lora_dropout": 0.0,
        "bias": "none", "use_rslora": False, "use_dora": False, "init_lora_weights": True,
    }  # fmt: skip
    served = vllm_note(top, base_revision(checkpoint, wanted))
    notes = (served, *sglang_note([*ranks.values()]))
    layers, base = [c.layer for c in changes], base_for_peft(checkpoint, wanted)
    return write_adapter(
        checkpoint, "LORA", tensors, fields, layers, base, out, notes, error_note(changes)
    )


def layer_changes(
    checkpoint: Checkpoint, factors: Factors, rank: int | None
) -> Iterator[LayerChange]:
    """The change of each layer that has one, exact or cut to `rank`, in layer order.

    Raises a ConfigError where every factor is 1.
    """
    size = checkpoint.config
    scale_LF = factors.scale_LF(size.layers, size.neurons)
    names = DOWN.hf_names(size.layers)
    for layer in scaled_layers(scale_LF):
        down_DF = checkpoint.read(names[layer]).astype(np.float32)
        yield layer_change(layer, down_DF, scale_LF[layer], rank)


def layer_change(
    layer: int, down_DF: np.ndarray, scale_F: np.ndarray, rank: int | None
) -> LayerChange:
    """The change that factors make of one down projection."""
    index_n = np.flatnonzero(scale_F != 1.0)
    change_Dn = down_DF[:, index_n] * (scale_F[index_n] - 1)
    exact = min(change_Dn.shape)
    if rank is not None and rank < exact:
        return _cut(layer, change_Dn, index_n, len(scale_F), rank)
    a_rF = np.zeros((exact, len(scale_F)), np.float32)
    if len(index_n) <= len(down_DF):
        a_rF[np.arange(exact), index_n] = 1
        return LayerChange(layer, a_rF, change_Dn)
    a_rF[:, index_n] = change_Dn
    return LayerChange(layer, a_rF, np.eye(exact, dtype=np.float32))


def _cut(
    layer: int, change_Dn: np.ndarray, index_n: np.ndarray, neurons: int, rank: int
) -> LayerChange:
    """The nearest change of that rank, its singular values shared between A and B."""
    u_Dr, value_r, v_rn = np.linalg.svd(change_Dn.astype(np.float64), full_matrices=False)
    root_r = np.sqrt(value_r[:rank])
    a_rF = np.zeros((rank, neurons), np.float32)
    a_rF[:, index_n] = root_r[:, None] * v_rn[:rank]
    lost, whole = (float((part**2).sum()) for part in (value_r[rank:], value_r))
    return LayerChange(layer, a_rF, (u_Dr[:, :rank] * root_r).astype(np.float32), lost, whole)


def error_note(changes: list[LayerChange]) -> str:
    """How much of the change of weights a cut rank has lost, where it has."""
    cut = [change for change in changes if change.whole]
    if not cut:
        return ""
    lost, whole = (sum(getattr(c, name) for c in cut) for name in ("lost", "whole"))
    worst = max((c.lost / c.whole) ** 0.5 for c in cut)
    return (
        f"rank {cut[0].rank} leaves out {(lost / whole) ** 0.5:.1%} of the change of weights "
        f"(Frobenius norm; {worst:.1%} in the worst of {len(cut)} layers)"
    )


def vllm_note(rank: int, revision: str | None = None) -> str:
    """How vLLM serves an adapter of that rank, on a base of that revision."""
    place = bisect.bisect_left(VLLM_RANKS, rank)
    if place == len(VLLM_RANKS):
        return f"rank {rank}: not for vLLM, which stops at {VLLM_RANKS[-1]}: use hf or --rank N"
    base = f"BASE --revision {revision}" if revision else "BASE"
    return (
        f"vllm serve {base} --enable-lora --max-lora-rank {VLLM_RANKS[place]} "
        "--lora-modules tuned=DIR"
    )


def sglang_note(ranks: Sequence[int]) -> tuple[str, ...]:
    """What keeps SGLang from an adapter of these ranks, where something does."""
    least, most = min(ranks), max(ranks)
    if least == most:
        return ()
    return (
        f"ranks {least} to {most}: not for SGLang, which takes one rank for all layers: use hf or "
        f"--rank {least}",
    )
