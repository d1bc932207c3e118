"""Every storage type of GGUF, dequantised, beside plain scalar Python."""

import gguf
import numpy as np
import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.gguf import STORAGE_TYPES
from tests import tiny
from tests.checkpoints.gguf_blocks import DOWN, ORACLES, random_blocks, write_one_layer


@pytest.mark.parametrize("kind", STORAGE_TYPES)
def test_every_storage_type_is_dequantised(tmp_path, kind):
    stored = random_blocks(kind, 256, 256)
    write_one_layer(tmp_path / "m.gguf", kind, stored)
    checkpoint = open_checkpoint(str(tmp_path / "m.gguf"))
    assert checkpoint.tensors[DOWN].dtype == kind
    ours = checkpoint.read(DOWN)
    assert ours.dtype == np.float32 and ours.shape == (256, 256)
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
    for row in (0, 1, 17, 255):
        raw = stored[row].tobytes()
        blocks = [raw[i : i + size] for i in range(0, len(raw), size)]
        expected = [value for block in blocks for value in ORACLES[kind](block)]
        # the package multiplies in float32, the oracle in float64: a few roundings of the terms
        scale = max(abs(value) for value in expected)
        np.testing.assert_allclose(ours[row], expected, rtol=1e-6, atol=1e-6 * scale)


def test_the_oracles_cover_every_type():
    assert ORACLES.keys() == set(STORAGE_TYPES)


def test_long_tensors_are_dequantised_in_parts(tmp_path):
    embed = write_one_layer(tmp_path / "m.gguf", "F32", np.eye(256, dtype=np.float32), 2500)
    checkpoint = open_checkpoint(str(tmp_path / "m.gguf"))
    np.testing.assert_array_equal(checkpoint.read("model.embed_tokens.weight"), embed)


def test_a_quantised_export_is_close_to_its_source(tmp_path):
    directory = tiny.checkpoint("qwen3")
    path = tiny.write_gguf(directory, tmp_path / "m.gguf", "BF16")
    original, ours = open_checkpoint(str(directory)), open_checkpoint(str(path))
    np.testing.assert_allclose(ours.read(DOWN), original.read(DOWN), rtol=2**-8)
    assert (ours.read(DOWN) != original.read(DOWN)).any()
