"""A checkpoint written again with some of its tensors edited.

The source is copied and only the bytes of changed tensors are overwritten, so that whatever was
not tuned stays bit for bit what it was. Everything happens in a temporary sibling of the output
directory, which appears under its name only when it is complete and on disk.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from nt_jax.checkpoints import tensors
from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.checkpoints.hf_config import config_to_hf, generation_to_hf
from nt_jax.checkpoints.hf_directory import INDEX, SINGLE
from nt_jax.checkpoints.hf_fields import words
from nt_jax.checkpoints.keymap import hf_shapes
from nt_jax.checkpoints.source import named_templates
from nt_jax.checkpoints.tensors import DTYPES, TensorInfo, write_ranges, write_safetensors
from nt_jax.checkpoints.tokenizer import load_tokenizer
from nt_jax.data.folders import own_places
from nt_jax.errors import CheckpointError, ConfigError
from nt_jax.export.folder import MANIFEST, ExportReport, appearing, digest, digests, write_json

SHARD_BYTES = 2 * 1000**3
_ROWS = 256  # rewritten together, so that temporaries stay small
# (rows of a tensor, their weights, float32 or float64) -> the new weights, in that type.
Edit = Callable[[slice, np.ndarray], np.ndarray]
# Other copies of the weights that may lie beside the safetensors files: stale after tuning.
_WEIGHT_FILES = words(".safetensors .bin .pt .pth .ckpt .h5 .msgpack .gguf .onnx")


def write_edited(
    checkpoint: Checkpoint,
    edits: Mapping[str, Edit],
    out: Path,
    dtype: str = "source",
    shard_bytes: int = SHARD_BYTES,
) -> ExportReport:
    """`checkpoint` as a Hugging Face directory at `out`, with the edits of the named tensors made.

    `dtype` "source" keeps the stored types (float32 where the source is GGUF), "float32" widens
    all of them, which avoids the rounding of the edits.
    """
    fold = _Fold(checkpoint, edits)
    if dtype not in ("source", "float32"):
        raise ConfigError(f"export.dtype = '{dtype}' is not one of source, float32.")
    rewrite = dtype == "float32" or checkpoint.directory is None
    kept = hf_shapes(checkpoint.config)  # a rewrite leaves out buffers and a tied copy of the head
    infos = [i for name, i in checkpoint.tensors.items() if name in kept or not rewrite]
    size = sum(4 * math.prod(i.shape) if rewrite else i.stop - i.start for i in infos)
    with appearing(out, size) as work:
        if checkpoint.directory is None:
            _write_gguf_side_files(checkpoint, work)
        else:
            _copy(checkpoint, work, weights=not rewrite)
        if rewrite:
            _write_shards(checkpoint, fold, work, shard_bytes)
        else:
            _patch(checkpoint, fold, work)
        sha256 = digests(work)
    return ExportReport(out, tuple(fold.changed), len(infos), fold.max_rounding, sha256)


class _Fold:
    """Edited tensors on demand, and how far rounding moved them."""

    def __init__(self, checkpoint: Checkpoint, edits: Mapping[str, Edit]):
        self.checkpoint = checkpoint
        self.changed = edits
        self.max_rounding = 0.0

    def read(self, name: str, dtype: np.dtype) -> np.ndarray:
        """The tensor in `dtype`, with its edit made: computed in float32, rounded once."""
        weight, edit = self.checkpoint.read(name), self.changed.get(name)
        if edit is None:
            return weight.astype(dtype, copy=False)
        folded = np.empty(weight.shape, dtype)
        for start in range(0, len(weight), _ROWS):
            rows = slice(start, start + _ROWS)
            with np.errstate(over="ignore"):  # reported below, by name
                folded[rows] = edit(rows, weight[rows].astype(np.float32))
            self._measure(edit(rows, weight[rows].astype(np.float64)), folded[rows])
        if not tensors.all_finite(folded):
            raise CheckpointError(
                f"The new weights of '{name}' overflow {dtype.name}. "
                "Export with export.dtype=float32."
            )
        return folded

    def _measure(self, exact: np.ndarray, folded: np.ndarray) -> None:
        size = np.abs(exact)
        normal = size >= float(ml_dtypes.finfo(folded.dtype).smallest_normal)
        moved = np.abs(folded.astype(np.float64) - exact)[normal] / size[normal]
        self.max_rounding = max(self.max_rounding, float(moved.max(initial=0.0)))


def check_links(checkpoint: Checkpoint) -> None:
    """Raises a CheckpointError where a file to copy is a link that leaves the model folder."""
    if checkpoint.directory is not None:
        _check_links(checkpoint.directory, _copied(checkpoint, weights=True))


def _check_links(folder: Path, files: Iterable[Path]) -> None:
    """What such a link leads to was not meant to be passed on."""
    own = own_places(folder.resolve())
    for file in files:
        target = file.resolve()
        if not any(place in target.parents for place in own):
            raise CheckpointError(
                f"{file} is a link to {target}, outside the model's folder: an export would copy "
                "it. Put a copy of that file in its place if it belongs to the model, or take the "
                "link away."
            )


def _copied(checkpoint: Checkpoint, weights: bool) -> list[Path]:
    """The model's own files; without `weights`, the index and the shards are left out.

    Of folders in it only that of named chat templates is one of the model's.
    """
    used = {info.file for info in checkpoint.tensors.values()}
    if checkpoint.path / SINGLE not in used:
        used.add(checkpoint.path / INDEX)
    found = []
    for file in sorted(checkpoint.path.iterdir()):
        if file.name.startswith(".") or not file.is_file():
            continue
        if file.name.upper().startswith("README") or file.name == MANIFEST:
            continue  # they speak of the untuned model
        if file.name == "adapter_config.json":
            continue  # its weights are left behind, and transformers would load its base instead
        is_weights = file.suffix in _WEIGHT_FILES or file.name.endswith(".index.json")
        if not is_weights or (weights and file in used):
            found.append(file)
    return found + named_templates(checkpoint.path)


def _copy(checkpoint: Checkpoint, work: Path, weights: bool) -> None:
    check_links(checkpoint)
    for file in _copied(checkpoint, weights):
        to = work / file.relative_to(checkpoint.path)
        to.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, to)


def copy_licences(checkpoint: Checkpoint, folder: Path) -> dict[str, str]:
    """The licence and notices of the source, which whoever passes it on has to keep.

    Name -> sha256 of each.
    """
    if checkpoint.directory is None:
        return {}
    files = [
        file
        for file in sorted(checkpoint.directory.iterdir())
        if file.is_file() and file.name.upper().startswith(("LICENSE", "NOTICE", "USE_POLICY"))
    ]
    _check_links(checkpoint.directory, files)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return {file.name: digest(folder / file.name) for file in files}


def _patch(checkpoint: Checkpoint, fold: _Fold, work: Path) -> None:
    by_file: dict[Path, list[tuple[str, TensorInfo]]] = {}
    for name in fold.changed:
        info = checkpoint.tensors[name]
        by_file.setdefault(info.file, []).append((name, info))
    for file, entries in by_file.items():
        changes = ((info, fold.read(name, DTYPES[info.dtype])) for name, info in entries)
        write_ranges(work / file.name, changes)


def _write_shards(checkpoint: Checkpoint, fold: _Fold, work: Path, shard_bytes: int) -> None:
    """All tensors as float32: one file, or shards of at most `shard_bytes` and their index."""
    kept = hf_shapes(checkpoint.config)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    total = filled = 0
    for name in (name for name in checkpoint.tensors if name in kept):
        size = 4 * math.prod(kept[name])
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = kept[name]
        filled, total = filled + size, total + size
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(shards, start=1):
        part = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = SINGLE if len(shards) == 1 else part
        write_safetensors(work / file, shapes, lambda name: fold.read(name, DTYPES["F32"]))
        weight_map |= dict.fromkeys(shapes, file)
    if len(shards) > 1:
        write_json(work / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    config_json = json.loads((work / "config.json").read_text("utf-8"))
    named = [name for name in ("dtype", "torch_dtype") if name in config_json] or ["torch_dtype"]
    write_json(work / "config.json", config_json | dict.fromkeys(named, "float32"))


def _write_gguf_side_files(checkpoint: Checkpoint, work: Path) -> None:
    """config.json, generation_config.json and the tokenizer, which a GGUF file holds inside."""
    write_json(work / "config.json", config_to_hf(checkpoint.config))
    write_json(work / "generation_config.json", generation_to_hf(checkpoint.config))
    load_tokenizer(checkpoint).save_pretrained(work, save_jinja_files=False)
    path = work / "tokenizer_config.json"
    fields = json.loads(path.read_text("utf-8"))
    fields.pop("backend", None)
    # transformers 5 writes a class name that 4 does not know; both know this one.
    write_json(path, fields | {"tokenizer_class": "PreTrainedTokenizerFast"})
