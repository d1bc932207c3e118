"""GGUF files made smaller by llama.cpp's own code: Q8_0, and the mixture that it calls Q4_K_M.

The prebuilt wheel has no `llama-quantize`, but the function behind it. Which tensor gets which type
is that program's rule (llama_tensor_get_type in src/llama-quant.cpp): of Q4_K_M the head, and the
values and down projections of some layers are Q6_K, other matrices Q4_K; rows that are no multiple
of 256 fall back to Q8_0 and Q5_0, and those that are none of 32 to F16. Importance matrices are
not used.
"""

import ctypes
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, dequantize

from nt_jax.export.gguf_file import Stored, copied, plain, typed, write_gguf

BLOCK, K_BLOCK = 32, 256
FILE_TYPES = {"Q8_0": 7, "Q4_K_M": 15}  # general.file_type
_FALLBACK = {Kind.Q4_K: Kind.Q5_0, Kind.Q6_K: Kind.Q8_0}


def quantise(source: Path, out: Path, name: str) -> None:
    """Write `source` again with its matrices in `name` (FILE_TYPES), from their float32 values."""
    reader = GGUFReader(source)
    head = any(tensor.name == "output.weight" for tensor in reader.tensors)
    layers = 1 + max(_layer(tensor.name) for tensor in reader.tensors)
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        if len(shape) < 2:
            tensors[tensor.name] = plain(np.array(tensor.data))
            continue
        kind = _kind(tensor.name, shape[1], name, head, layers)
        size = _library().ggml_row_size(kind.value, shape[1]) * shape[0]

        def read(tensor=tensor, kind: Kind = kind, size: int = size) -> np.ndarray:
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            return packed(values, kind, size)

        tensors[tensor.name] = Stored(shape, kind, size, read)
    metadata = copied(reader) | {"general.file_type": typed(FILE_TYPES[name])}
    architecture = str(reader.fields["general.architecture"].contents())
    write_gguf(out, architecture, metadata, tensors, reader.alignment)


def packed(values: np.ndarray, kind: Kind, size: int) -> np.ndarray:
    """A float32 matrix in blocks of `kind`, as bytes."""
    values = np.ascontiguousarray(values, np.float32)
    found = np.empty(size, np.uint8)
    made = _library().ggml_quantize_chunk(
        kind.value, values.ctypes.data, found.ctypes.data, 0, *values.shape, None
    )
    if made != size:
        raise ValueError(f"{kind.name}: {made} bytes in place of {size}")
    return found


def _kind(tensor: str, width: int, name: str, head: bool, layers: int) -> Kind:
    """The type of a matrix; `head`: whether there is one beside the embedding."""
    if width % BLOCK:
        return Kind.F16
    if name == "Q8_0":
        return Kind.Q8_0
    more = ("attn_v.weight", "ffn_down.weight")
    if tensor == "output.weight" or (tensor == "token_embd.weight" and not head):
        kind = Kind.Q6_K
    else:
        bits = tensor.endswith(more) and _more_bits(_layer(tensor), layers)
        kind = Kind.Q6_K if bits else Kind.Q4_K
    return kind if width % K_BLOCK == 0 else _FALLBACK[kind]


def _more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _layer(tensor: str) -> int:
    """The layer of a tensor, -1 where it belongs to none."""
    parts = tensor.split(".")
    return int(parts[1]) if parts[0] == "blk" else -1


def _library() -> ctypes.CDLL:
    import xllamacpp.xllamacpp as built

    library = ctypes.CDLL(built.__file__)
    library.ggml_row_size.restype = library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, pointer, pointer, number, number, number, pointer
    ]  # fmt: skip
    return library
