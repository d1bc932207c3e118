"""Checkpoints are told apart by what they hold."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax.checkpoints.checkpoint import SAMPLE_BYTES, fingerprint, open_checkpoint
from tests import tiny


def test_a_fingerprint_depends_on_content_not_on_place(tmp_path):
    copy = tiny.copy("smollm2", tmp_path / "copy")
    (copy / "README.md").write_text("Words about the model.")
    assert fingerprint(open_checkpoint(str(copy))) == original()


def original() -> str:
    return fingerprint(open_checkpoint(str(tiny.checkpoint("smollm2"))))


def fold(directory):
    """What our own export does: one column of one matrix, somewhere in the middle of the file."""
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][:, 7] *= np.float32(1.5)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def template(directory):
    path = directory / "chat_template.jinja"
    path.write_text(path.read_text() + " ")


def norm(directory):
    tiny.edit_json(directory / "config.json", rms_norm_eps=1e-6)


@pytest.mark.parametrize("change", [fold, template, norm])
def test_a_fingerprint_tells_apart(tmp_path, change):
    copy = tiny.copy("smollm2", tmp_path / "copy")
    change(copy)
    assert fingerprint(open_checkpoint(str(copy))) != original()


def test_a_fingerprint_reads_a_little_of_every_tensor(tmp_path):
    """A file too large to be read whole still shows a fold in its first rows."""
    copy = tiny.copy("smollm2", tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    assert (copy / "model.safetensors").stat().st_size > SAMPLE_BYTES
    assert max(weight.nbytes for weight in tensors.values()) <= SAMPLE_BYTES
    found = set()
    for name in tensors:
        changed = {**tensors, name: tensors[name] + 1}
        save_file(changed, copy / "model.safetensors", {"format": "pt"})
        found.add(fingerprint(open_checkpoint(str(copy))))
    assert len(found) == len(tensors)


def test_a_gguf_file_has_a_fingerprint_of_its_tokenizer_too(tmp_path):
    paths = [
        tiny.write_gguf(tiny.checkpoint("smollm2"), tmp_path / f"{n}.gguf", metadata=metadata)
        for n, metadata in enumerate([{}, {}, {"tokenizer.chat_template": "{{ messages }}"}])
    ]
    one, same, other = (fingerprint(open_checkpoint(str(path))) for path in paths)
    assert one == same != other


def test_a_fingerprint_sees_a_whole_row_however_wide(tmp_path):
    """64 KiB of a float32 matrix are 16,384 columns: a fold past them has to be seen."""
    copy, wide = tiny.copy("llama2", tmp_path / "copy"), SAMPLE_BYTES // 4 + 16
    tiny.edit_json(copy / "config.json", intermediate_size=wide)
    tensors = load_file(copy / "model.safetensors")
    for name, weight in tensors.items():
        if ".mlp." in name:
            shape = [wide if size == tiny.NEURONS else size for size in weight.shape]
            tensors[name] = np.ones(shape, np.float32)

    def with_one(name: str, place: tuple[int, int]) -> str:
        changed = tensors[f"model.layers.1.mlp.{name}.weight"].copy()
        changed[place] = 2
        save_file(
            tensors | {f"model.layers.1.mlp.{name}.weight": changed}, copy / "model.safetensors"
        )
        return fingerprint(open_checkpoint(str(copy)))

    plain = with_one("up_proj", (wide - 1, 0))  # rows are short: the sample is what it was
    assert plain == with_one("up_proj", (wide - 2, 0)) == with_one("down_proj", (1, 0))
    assert with_one("down_proj", (0, wide - 1)) not in (plain, with_one("down_proj", (0, wide - 2)))
