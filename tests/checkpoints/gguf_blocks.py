"""What stored blocks of every type of GGUF stand for, in plain scalar Python; files of them."""

import struct

import gguf
import numpy as np

DOWN = "model.layers.0.mlp.down_proj.weight"


def half(raw: bytes) -> float:
    return struct.unpack("<e", raw)[0]


def q4_0(b):
    d, qs = half(b[:2]), b[2:]
    return [(q & 15) * d - 8 * d for q in qs] + [(q >> 4) * d - 8 * d for q in qs]


def q4_1(b):
    d, m, qs = half(b[:2]), half(b[2:4]), b[4:]
    return [(q & 15) * d + m for q in qs] + [(q >> 4) * d + m for q in qs]


def q5_bits(qh, qs):
    high = int.from_bytes(qh, "little")
    low = [(q & 15) | ((high >> j & 1) << 4) for j, q in enumerate(qs)]
    return low + [(q >> 4) | ((high >> (j + 16) & 1) << 4) for j, q in enumerate(qs)]


def q5_0(b):
    return [(q - 16) * half(b[:2]) for q in q5_bits(b[2:6], b[6:])]


def q5_1(b):
    return [q * half(b[:2]) + half(b[2:4]) for q in q5_bits(b[4:8], b[8:])]


def q8_0(b):
    return [q * half(b[:2]) for q in struct.unpack("<32b", b[2:])]


def k_scales(packed, j):
    """Scale and minimum number j of the eight 6-bit pairs in 12 bytes."""
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6 << 4)
    return scale, (packed[j + 4] >> 4) | (packed[j] >> 6 << 4)


def q4_k(b, high=None):
    d, dmin, packed, qs = half(b[:2]), half(b[2:4]), b[4:16], b[-128:]
    out = []
    for group in range(8):
        scale, minimum = k_scales(packed, group)
        for i in range(32):
            q = qs[group // 2 * 32 + i]
            q = q >> 4 if group % 2 else q & 15
            if high is not None:
                q += 16 * (high[i] >> group & 1)
            out.append(d * scale * q - dmin * minimum)
    return out


def q5_k(b):
    return q4_k(b, high=b[16:48])


def q6_k(b):
    ql, qh, scales, d = b[:128], b[128:192], struct.unpack("<16b", b[192:208]), half(b[208:])
    out = []
    for i in range(256):
        side, quarter, at = i // 128, i % 128 // 32, i % 32
        low = ql[side * 64 + quarter % 2 * 32 + at]
        low = low >> 4 if quarter > 1 else low & 15
        q = (low | (qh[side * 32 + at] >> (2 * quarter) & 3) << 4) - 32
        out.append(d * scales[i // 16] * q)
    return out


def f16(b):
    return [half(b)]


def bf16(b):
    return [struct.unpack("<f", b"\0\0" + b)[0]]


def f32(b):
    return list(struct.unpack("<f", b))


ORACLES = {
    "F32": f32, "F16": f16, "BF16": bf16, "Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q5_1": q5_1,
    "Q8_0": q8_0, "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k,
}  # fmt: skip
# Where the float16 scales lie in a block: random bytes there could be NaN.
HALVES = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


def random_blocks(kind: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Valid stored bytes [rows, bytes] of a tensor, every bit pattern but NaN scales."""
    rng = np.random.default_rng(seed)
    if kind in ("F32", "BF16"):
        weight = rng.normal(size=(rows, columns)).astype(np.float32)
        return gguf.quants.quantize(weight, gguf.GGMLQuantizationType[kind]).view(np.uint8)
    per_block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    blocks = rng.integers(0, 256, (rows * columns // per_block, size), dtype=np.uint8)
    for at in HALVES[kind]:
        scales = rng.normal(size=(len(blocks), 1)).astype("<f2")
        blocks[:, at : at + 2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


def write_one_layer(path, kind: str, stored: np.ndarray, embed_rows: int = 40):
    """A one-layer llama file, 256 wide, whose down projection is `stored`; the rest is small."""
    raw = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {
        "block_count": 1, "context_length": 64, "embedding_length": 256,
        "feed_forward_length": 256, "attention.head_count": 4, "attention.head_count_kv": 4,
    }.items():  # fmt: skip
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    embed = np.random.default_rng(1).normal(size=(embed_rows, 256)).astype(np.float32)
    square, ones = np.eye(256, dtype=np.float32), np.ones(256, np.float32)
    writer.add_tensor("token_embd.weight", embed)
    writer.add_tensor("output_norm.weight", ones)
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", ones)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    writer.add_tensor("blk.0.ffn_down.weight", stored, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return embed
