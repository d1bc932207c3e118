"""Chat templates beside the default one, which transformers keeps in a folder of their own."""

import pytest

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.source import TEMPLATES
from nt_jax.checkpoints.tokenizer import load_tokenizer
from nt_jax.errors import CheckpointError
from nt_jax.export.folder import digests
from nt_jax.export.hf import export_hf, save_model
from nt_jax.generate.chat import open_model
from tests import tiny
from tests.checkpoints.test_source import hub  # noqa: F401
from tests.export.test_adapters import factors_of
from tests.export.test_hf import elsewhere, scale_of

NAMED = {"default": tiny.CHAT_TEMPLATE, "tool_use": "{{ tools }}", "rag": "{{ documents }}"}


def with_templates(folder):
    """A tiny model as transformers saves one with several chat templates."""
    source = tiny.copy("llama2", folder)
    tokenizer = load_tokenizer(open_checkpoint(str(source)))
    tokenizer.chat_template = dict(NAMED)
    tokenizer.save_pretrained(source)
    (source / TEMPLATES / "notes.txt").write_text("no template")
    return source


@pytest.mark.parametrize("dtype", ["source", "float32"])
def test_every_template_is_exported(tmp_path, dtype):
    source = with_templates(tmp_path / "m")
    report = save_model(open_model(str(source)), factors_of(), tmp_path / "out", dtype)
    again = load_tokenizer(open_checkpoint(str(tmp_path / "out")))
    assert again.chat_template == NAMED
    assert {file.name for file in (tmp_path / "out" / TEMPLATES).iterdir()} == {
        "tool_use.jinja",
        "rag.jinja",
    }
    assert f"{TEMPLATES}/rag.jinja" in report.sha256
    assert report.sha256 == digests(tmp_path / "out")


def test_a_template_that_is_a_link_out_of_the_folder_is_refused(tmp_path):
    source, secret = with_templates(tmp_path / "m"), elsewhere(tmp_path)
    (source / TEMPLATES / "rag.jinja").unlink()
    (source / TEMPLATES / "rag.jinja").symlink_to(secret)
    with pytest.raises(CheckpointError, match=rf"rag\.jinja is a link to {secret}, outside"):
        export_hf(open_checkpoint(str(source)), scale_of(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_so_is_their_folder(tmp_path):
    source = with_templates(tmp_path / "m")
    (source / TEMPLATES).rename(tmp_path / "theirs")
    (source / TEMPLATES).symlink_to(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=r"rag\.jinja is a link to .*theirs/rag\.jinja, outs"):
        export_hf(open_checkpoint(str(source)), scale_of(), tmp_path / "out")


def test_a_template_of_any_size_is_not_read(tmp_path):
    source = with_templates(tmp_path / "m")
    with (source / TEMPLATES / "rag.jinja").open("r+b") as file:
        file.truncate(1 << 30)  # a hole: no disk is used
    with pytest.raises(
        CheckpointError, match=r"1,073,741,824 bytes; at most .* are read of each file of"
    ):
        load_tokenizer(open_checkpoint(str(source)))
