"""The whole tuned model as a GGUF file for llama.cpp and Ollama.

Of a GGUF source every byte of metadata and of untouched tensors is kept, and changed down
projections become float32, as in the hf export: a factor of an input does not fit into the blocks
of a quantised weight. Of a Hugging Face source matrices keep their type and vectors are float32, as
llama.cpp's converter has them. `llama-quantize` makes either smaller.
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader

from nt_jax import processes
from nt_jax.checkpoints.checkpoint import Checkpoint
from nt_jax.checkpoints.gguf_names import gguf_name, permute
from nt_jax.checkpoints.keymap import DOWN, hf_shapes
from nt_jax.checkpoints.tensors import DTYPES
from nt_jax.checkpoints.tokenizer import load_tokenizer
from nt_jax.export.folder import ExportReport, Wanted, appearing, by_first, digests
from nt_jax.export.gguf_file import Stored, Value, copied, plain, write_gguf, write_modelfile
from nt_jax.export.gguf_lora import architecture
from nt_jax.export.gguf_metadata import model_metadata, rope_factors
from nt_jax.export.gguf_vocab import ends_note, vocabulary
from nt_jax.export.peft import base_name, report_of
from nt_jax.export.verify import verify_export
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import Factors

FILE = "model.gguf"
KEPT = (
    "--dtype float32 widens nothing here: the source is a GGUF file, whose other bytes are kept, "
    "and changed matrices are float32 in any case (hf widens all)"
)
Read = Callable[[str], np.ndarray]  # HF name -> the weight with its factors in it, float32


def write(model: ChatModel, factors: Factors, out: Path, wanted: Wanted) -> ExportReport:
    """The tuned model as one GGUF file, read again and compared as the hf export is.

    `wanted.dtype` float32 widens matrices of a Hugging Face source. Raises a CheckpointError for a
    tokenizer that llama.cpp would cut text in another way, a RunError if what was written does not
    answer like the model; nothing is left then.
    """
    size = model.checkpoint.config
    scale_LF = factors.scale_LF(size.layers, size.neurons)
    report = by_first(write_model)(model.checkpoint, scale_LF, out, wanted)
    try:
        difference = verify_export(model, scale_LF, out / FILE)
    except BaseException:
        if processes.first():
            shutil.rmtree(out.resolve())
        raise
    return dataclasses.replace(report, max_logit_difference=difference)


def write_model(
    checkpoint: Checkpoint, scale_LF: np.ndarray, out: Path, wanted: Wanted
) -> ExportReport:
    """`write` without the comparison; scale_LF float32 [layers, neurons]."""
    size = checkpoint.config
    names = DOWN.hf_names(size.layers)
    layers = [layer for layer, row_F in enumerate(scale_LF) if (row_F != 1).any()]

    def read(name: str) -> np.ndarray:
        weight = checkpoint.read(name).astype(np.float32)
        return weight * scale_LF[names.index(name)] if name in names else weight

    changed = {names[layer] for layer in layers}
    if checkpoint.gguf is not None:
        metadata, tensors, alignment, lost = _of_gguf(checkpoint, read, changed)
    else:
        metadata, tensors, alignment, lost = _of_directory(checkpoint, read, wanted)
    with appearing(out, sum(stored.size for stored in tensors.values())) as work:
        write_gguf(work / FILE, architecture(size.family), metadata, tensors, alignment)
        write_modelfile(work, **{"from": f"./{FILE}"})
        sha256 = digests(work)
    narrow = checkpoint.gguf is not None and wanted.dtype == "float32"
    notes = (f"llama-server -m {FILE}; Ollama: Modelfile; smaller: llama-quantize",)
    return report_of(checkpoint, layers, out, sha256, (*(KEPT,) * narrow, *lost, *notes))


# metadata, tensors, alignment, and what has no place in the file, in words
Parts = tuple[dict[str, Value], dict[str, Stored], int, tuple[str, ...]]


def _of_gguf(checkpoint: Checkpoint, read: Read, changed: set[str]) -> Parts:
    """Everything as it lies in the source, but for the changed tensors."""
    reader = GGUFReader(checkpoint.path)
    theirs = {gguf_name(name): name for name in changed}
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if tensor.name in theirs:
            name, count = theirs[tensor.name], int(tensor.n_elements)
            kind = GGMLQuantizationType.F32
            tensors[tensor.name] = Stored(shape, kind, 4 * count, lambda name=name: read(name))
        else:
            tensors[tensor.name] = Stored(
                shape, tensor.tensor_type, int(tensor.n_bytes), lambda data=tensor.data: data
            )
    return copied(reader), tensors, reader.alignment, ()


def _of_directory(checkpoint: Checkpoint, read: Read, wanted: Wanted) -> Parts:
    """What llama.cpp's converter makes of a Hugging Face directory."""
    config, tensors = checkpoint.config, {}
    for name, shape in hf_shapes(config).items():
        stored = np.dtype(np.float32)
        if wanted.dtype == "source" and len(shape) > 1:
            stored = DTYPES[checkpoint.tensors[name].dtype]

        def cast(name: str = name, stored: np.dtype = stored) -> np.ndarray:
            weight = read(name)
            if architecture(config.family) == "llama":
                weight = permute(name, weight, config)
            return weight.astype(stored)

        kind = GGMLQuantizationType[_KINDS[stored.name]]
        tensors[gguf_name(name)] = Stored(shape, kind, int(np.prod(shape)) * stored.itemsize, cast)
    factors = rope_factors(config)
    if factors is not None:
        tensors["rope_freqs.weight"] = plain(factors)
    kinds = {stored.kind for stored in tensors.values()}
    most = max(kinds, key=lambda kind: kind.value)  # of the matrices; F32 is the lowest
    metadata = model_metadata(checkpoint, most, base_name(checkpoint, wanted))
    tokenizer = load_tokenizer(checkpoint)
    return metadata | vocabulary(tokenizer, config), tensors, 32, ends_note(tokenizer, config)


_KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
