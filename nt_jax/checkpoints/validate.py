"""Whether the tensors on disk are the ones the config asks for: every difference, by name."""

import re
from collections.abc import Collection, Iterable

from nt_jax.checkpoints.hf_fields import closest
from nt_jax.checkpoints.keymap import hf_shapes
from nt_jax.checkpoints.tensors import AGAIN, TensorInfo
from nt_jax.limits import PROBLEMS
from nt_jax.models.config import ModelConfig

HEAD = "lm_head.weight"
_LAYER = re.compile(r"(?<=\blayers\.)\d+(?=\.)")
_BUFFER = re.compile(r".*rotary_emb\.inv_freq")  # older transformers saved these; recomputed here


def tensor_problems(
    config: ModelConfig,
    tensors: dict[str, TensorInfo],
    readable: Collection[str],
    lost: Iterable[str] = (),
) -> list[str]:
    """Missing, extra, mis-shaped and unreadable tensors, one sentence for each kind of tensor.

    `readable` are the storage types that can be read, `lost` names whose shard is bad anyway.
    """
    expected = hf_shapes(config)
    missing = _by_kind(expected.keys() - tensors.keys() - set(lost))
    extra = _by_kind(n for n in tensors.keys() - expected.keys() if not _ignorable(n, config))
    problems: list[str] = []  # hints cost the most: those that are only counted get none
    for kind, layers in missing.items():
        hint = _hint(kind, extra) if len(problems) < PROBLEMS.value else ""
        problems.append(f"tensor {_show(kind, layers)} is missing{hint}. {AGAIN}")
    ours = missing or _by_kind(expected)
    for kind, layers in extra.items():
        hint = _nearest(kind, ours) if len(problems) < PROBLEMS.value else ""
        problems.append(
            f"tensor {_show(kind, layers)} is not part of this {config.family} model{hint}: "
            "the config and the weights do not belong together."
        )
    if config.tied:  # a head may be stored all the same, and is then compared with the embedding
        expected |= {HEAD: (config.vocab_size, config.width)}
    for name in sorted(expected.keys() & tensors.keys()):
        info, shape = tensors[name], expected[name]
        if info.shape != shape:
            turned = "; it looks transposed" if info.shape == shape[::-1] else ""
            problems.append(
                f"tensor '{name}' has shape {list(info.shape)}, but the config makes it "
                f"{list(shape)}{turned}. The config and the weights do not belong together."
            )
        elif info.dtype not in readable:
            problems.append(
                f"tensor '{name}' is stored as {info.dtype}, which is not read; readable: "
                f"{', '.join(readable)}. Use another version of this model."
            )
    return problems


def _hint(kind: str, extra: dict[str, list[int]]) -> str:
    if kind == HEAD:
        return " (if the model shares it with the embedding, set tie_word_embeddings to true)"
    return _nearest(kind, extra)


def _nearest(kind: str, kinds: dict[str, list[int]]) -> str:
    near = closest(kind, kinds)
    return f" (nearest: {_show(near, kinds[near])})" if near else ""


def _ignorable(name: str, config: ModelConfig) -> bool:
    return bool(_BUFFER.fullmatch(name)) or (name == HEAD and config.tied)


def _by_kind(names: Iterable[str]) -> dict[str, list[int]]:
    """Names with the layer number replaced by "{l}" -> the layers they occur in."""
    kinds: dict[str, list[int]] = {}
    for name in sorted(names):
        layer = _LAYER.search(name)
        kind = _LAYER.sub("{l}", name, count=1)
        kinds.setdefault(kind, []).extend([int(layer.group())] if layer else [])
    return kinds


def _show(kind: str, layers: list[int]) -> str:
    """A kind of tensor as text: its full name, or its pattern and the layers it stands for."""
    if len(layers) < 2:
        return f"'{kind.replace('{l}', ''.join(map(str, layers)))}'"
    layers = sorted(layers)
    run = layers == list(range(layers[0], layers[-1] + 1))
    shown = f"{layers[0]} to {layers[-1]}" if run else ", ".join(map(str, layers))
    return f"'{kind}' of layers {shown}"
