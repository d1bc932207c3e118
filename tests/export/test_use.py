"""The lines of a card that use an export, and what the chat template is told in them."""

import json
import shutil
from pathlib import Path

import pytest

from nt_jax import cli
from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.config.registry import FORMATS
from nt_jax.export import factors as format_of_factors
from nt_jax.export.card import CARD
from nt_jax.export.folder import MANIFEST, Wanted, digests
from nt_jax.generate.chat import open_model
from tests import tiny
from tests.export.test_adapters import factors_of

QWEN3 = Path(__file__).parents[1] / "checkpoints" / "templates" / "qwen3.jinja"
ASKED = "What can you do for me?"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory) -> Path:
    """A model whose template reasons first unless it is told not to."""
    source = tiny.copy("qwen3", tmp_path_factory.mktemp("thinker") / "model")
    shutil.copyfile(QWEN3, source / "chat_template.jinja")
    return source


def exported(source: Path, out: Path, kinds: str, *words: str) -> Path:
    format_of_factors.write(open_model(str(source)), factors_of(), out / "factors-of", Wanted())
    told = ["--factors", str(out / "factors-of"), "--model", str(source), "--format", kinds]
    assert cli.main("export", [*told, "--out", str(out / "out"), *words]) == 0
    return out / "out"


@pytest.fixture
def free(monkeypatch):
    monkeypatch.setattr(cli, "_enter", lambda: None)


@pytest.mark.usefixtures("free")
def test_a_card_asks_as_the_model_was_tuned_where_the_template_can_be_told(
    thinker, tmp_path, monkeypatch
):
    out = exported(thinker, tmp_path, ",".join(FORMATS))
    for kind in FORMATS:
        card = (out / kind / CARD).read_text()
        assert "tuned and measured with\n`enable_thinking=False`" in card
        assert '"chat_template_kwargs": {"enable_thinking": false}' in card
        if kind.startswith("gguf"):
            assert "--chat-template-kwargs '{\"enable_thinking\": false}'" in card
    lines = (out / "hf" / CARD).read_text().split("```python\n")[1].split("```")[0]
    asks = [
        line for line in lines.splitlines() if not line.startswith(("model", "answer", "print"))
    ]
    monkeypatch.chdir(out / "hf")
    exec("\n".join(asks), found := {})
    model = open_model(str(thinker))
    assert found["inputs"]["input_ids"][0].tolist() == model.encode(ASKED)


@pytest.mark.usefixtures("free")
def test_templates_that_ask_nothing_are_told_nothing(tmp_path):
    out = exported(tiny.checkpoint("qwen2"), tmp_path, "hf,gguf")
    for kind in ("hf", "gguf"):
        card = (out / kind / CARD).read_text()
        assert "thinking" not in card and "chat-template-kwargs" not in card


@pytest.mark.usefixtures("free")
def test_adapters_read_the_base_by_the_class_that_keeps_its_rules(tmp_path):
    source = tiny.copy("llama2", tmp_path / "model")
    tiny.edit_json(source / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    out = exported(source, tmp_path, "hf,ia3,lora", "--base", "owner/base")
    for kind in ("hf", "ia3", "lora"):
        card = (out / kind / CARD).read_text()
        assert "PreTrainedTokenizerFast.from_pretrained(" in card
        assert "AutoTokenizer" not in card


@pytest.mark.usefixtures("free")
def test_the_manifest_has_the_hash_of_every_other_file_licences_among_them(tmp_path):
    source = tiny.copy("llama2", tmp_path / "model")
    for name in ("LICENSE", "NOTICE.txt"):
        (source / name).write_text(name)
    kinds = [*FORMATS]
    out = exported(source, tmp_path, ",".join(kinds))
    for kind in kinds:
        written = digests(out / kind)
        told = json.loads((out / kind / MANIFEST).read_text())["sha256"]
        assert told == {name: written[name] for name in written if name not in (CARD, MANIFEST)}


@pytest.mark.usefixtures("free")
def test_formats_that_copy_no_weights_take_linked_ones(tmp_path):
    source, far = tiny.copy("llama2", tmp_path / "model"), tmp_path / "far"
    far.mkdir()
    (source / "model.safetensors").rename(far / "model.safetensors")
    (source / "model.safetensors").symlink_to(far / "model.safetensors")
    assert open_checkpoint(str(source)).tensors
    out = exported(source, tmp_path, "ia3,factors")
    assert (out / "ia3" / "adapter_model.safetensors").is_file()
