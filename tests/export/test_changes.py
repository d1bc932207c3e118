"""Replaced weights: only they differ, in memory and in an export that transformers loads."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from nt_jax.checkpoints.checkpoint import load_weights, open_checkpoint
from nt_jax.errors import CheckpointError
from nt_jax.export.hf import changes, export_changes
from nt_jax.mesh import make_mesh
from nt_jax.models.leaves import get_leaf, with_leaves
from nt_jax.models.transformer import logits
from tests import plain, tiny
from tests.baselines import made_up

NAMES = ("blocks.mlp.down", "blocks.attn.q", "blocks.attn.v", "embed")
TOKENS = np.array([[5, 9, 30, 11, 7]], np.int32)


def shifted(lm, name: str, seed: int = 0):
    """`lm` with noise on a third of the last layer of a leaf."""
    leaf, generator = get_leaf(lm, name), np.random.default_rng(seed)
    noise = generator.standard_normal(leaf.shape) * (generator.random(leaf.shape) < 0.3)
    if name.startswith("blocks."):
        noise[:-1] = 0
    return with_leaves(
        lm, {name: (leaf.astype(jnp.float32) + noise.astype("f4")).astype(leaf.dtype)}
    )


@pytest.mark.parametrize("name", NAMES)
def test_only_the_named_leaf_is_another_array(name):
    lm = made_up.model()
    new = shifted(lm, name)
    for leaf, array in plain.leaves_of(new).items():
        assert (array is plain.leaves_of(lm)[leaf]) == (leaf != name)
    assert get_leaf(new, name) is plain.leaves_of(new)[name]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_an_export_is_the_changed_model_and_every_other_byte_the_old_one(tmp_path, name, dtype):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    source = tiny.checkpoint("qwen2", dtype=dtype)
    lm = load_weights(str(source), dtype, make_mesh())
    new = shifted(lm, name)
    found = changes(lm, new)
    report = export_changes(open_checkpoint(str(source)), found, tmp_path / "out")
    assert report.changed == tuple(found) and len(found) == 1
    (changed,) = found
    assert ("layers.1." in changed) == name.startswith("blocks.")
    old, written = (load_file(d / "model.safetensors") for d in (source, tmp_path / "out"))
    assert old.keys() == written.keys()
    for tensor in old:
        same = old[tensor].view(np.uint8) == written[tensor].view(np.uint8)
        assert same.all() == (tensor != changed)
    still = found[changed] == 0
    assert 0.5 < still.mean() < 0.9
    np.testing.assert_array_equal(written[changed][still], old[changed][still])
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    wide = load_weights(str(tmp_path / "out"), "float32", make_mesh())
    with torch.no_grad():
        expected = twin(torch.from_numpy(TOKENS).long()).logits.numpy()
    np.testing.assert_allclose(logits(wide, TOKENS, TOKENS > 0), expected, rtol=1e-4, atol=1e-4)
    # the export holds the very weights, but for the last bit of a float32 sum
    ours, theirs = (np.asarray(get_leaf(m, name), np.float32) for m in (new, wide))
    np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.wait": np.zeros(3)}, "no such name"),
        ({"model.norm.weight": np.zeros(3)}, r"shape \[3\].*the tensor has \[32\]"),
        ({"model.norm.weight": np.full(32, np.nan)}, "not finite"),
    ],
)
def test_changes_of_another_model_are_refused(tmp_path, change, message):
    checkpoint = open_checkpoint(str(tiny.checkpoint("qwen2")))
    with pytest.raises(CheckpointError, match=message):
        export_changes(checkpoint, change, tmp_path / "out")
    assert not (tmp_path / "out").exists()
