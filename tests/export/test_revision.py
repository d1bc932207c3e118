"""A base that was read at a revision of the hub: adapters, cards and manifests name it."""

import json

import pytest

from nt_jax import cli, load_model
from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.config.load import load_config
from nt_jax.errors import CheckpointError
from nt_jax.export import factors as format_of_factors
from nt_jax.export import ia3, lora
from nt_jax.export.card import CARD
from nt_jax.export.folder import MANIFEST, Wanted
from nt_jax.generate.chat import open_model
from nt_jax.run.about import about_factors
from nt_jax.run.kept import Kept
from nt_jax.run.model import chat_model
from tests import tiny
from tests.checkpoints.test_source import hub  # noqa: F401
from tests.export import peft_twin
from tests.export.test_adapters import factors_of

pytestmark = pytest.mark.usefixtures("hub")
ID, REVISION = "owner/tiny", "v1"


def adapter_config(folder) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


def test_only_what_the_hub_delivered_has_a_revision(tmp_path):
    local = str(tiny.checkpoint("smollm2"))
    gguf = str(tiny.write_gguf(tiny.checkpoint("llama2"), tmp_path / "m.gguf"))
    assert open_checkpoint(ID, REVISION).revision == REVISION
    assert [open_checkpoint(source, REVISION).revision for source in (local, gguf)] == [None, None]


def test_a_model_is_loaded_at_a_revision():
    assert load_model(ID, revision=REVISION).checkpoint.revision == REVISION
    with pytest.raises(CheckpointError, match="has no revision 'v2'"):
        load_model(ID, revision="v2")


@pytest.mark.parametrize("module", [ia3, lora])
def test_peft_puts_an_adapter_onto_its_base_at_that_revision(tmp_path, monkeypatch, module):
    peft, transformers = peft_twin.peft(), pytest.importorskip("transformers")
    base, asked = peft_twin.torch_model(tiny.checkpoint("smollm2")), []

    def fetch(name, revision=None, **rest):
        asked.append((name, revision))
        return base

    module.write(open_model(ID, revision=REVISION), factors_of(), tmp_path / "out", Wanted())
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fetch)
    monkeypatch.setattr(peft.auto, "check_file_exists_on_hf_hub", lambda **_: False)
    with peft_twin.as_it_is():
        peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    assert asked == [(ID, REVISION)]


def test_under_another_name_the_base_has_no_such_revision(tmp_path):
    model = open_model(ID, revision=REVISION)
    for name, revision in ((ID, REVISION), ("someone/copy", None)):
        ia3.write(model, factors_of(), tmp_path / name, Wanted(base=name))
        said = adapter_config(tmp_path / name)
        assert (said["base_model_name_or_path"], said["revision"]) == (name, revision)
    ia3.write(open_model(str(tiny.checkpoint("smollm2"))), factors_of(), tmp_path / "l", Wanted())
    assert adapter_config(tmp_path / "l")["revision"] is None


def test_the_line_for_vllm_names_the_revision(tmp_path):
    report = lora.write(open_model(ID, revision=REVISION), factors_of(), tmp_path / "l", Wanted())
    assert report.notes[0].startswith("vllm serve BASE --revision v1 --enable-lora ")


LINES = {
    "ia3": [
        "tokenizer = AutoTokenizer.from_pretrained(base, revision=\"v1\")",
        "AutoModelForCausalLM.from_pretrained(base, revision=\"v1\"), \".\")",
    ],
    "factors": ["model = nt.load_model(\"owner/tiny\", revision=\"v1\")\n"],
    "hf": ["AutoTokenizer.from_pretrained(place)\n"],
    "gguf-lora": ["llama-server -m BASE.gguf --lora lora.gguf  # the base"],
}  # fmt: skip


def test_the_command_takes_a_revision_and_cards_and_manifests_name_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    model = open_model(ID, revision=REVISION)
    format_of_factors.write(model, factors_of(), tmp_path / "f", Wanted())
    words = ["--factors", str(tmp_path / "f"), "--model", ID, "--revision", REVISION]
    words += ["--format", ",".join(LINES), "--out"]
    assert cli.main("export", [*words, str(tmp_path / "out")]) == 0
    for kind, lines in LINES.items():
        card = (tmp_path / "out" / kind / CARD).read_text()
        assert "Base: owner/tiny, revision `v1`, files with fingerprint" in card
        assert all(line in card for line in lines), kind
        manifest = json.loads((tmp_path / "out" / kind / MANIFEST).read_text())
        assert manifest["base"]["revision"] == REVISION
    assert adapter_config(tmp_path / "out" / "ia3")["revision"] == REVISION
    other = ["--base", "someone/copy"]
    assert cli.main("export", [*words, str(tmp_path / "other"), *other]) == 0
    for kind in LINES:
        card = (tmp_path / "other" / kind / CARD).read_text()
        assert "someone/copy, files with" in card and "revision=" not in card
        assert (
            "revision" not in json.loads((tmp_path / "other" / kind / MANIFEST).read_text())["base"]
        )


def test_a_run_has_a_revision_of_its_own(capsys):
    words = ["--run", "runs/x", "--out", "out", "--revision", REVISION]
    assert cli.main("export", words) == 2
    assert "--revision is that of --model BASE; a run has its own" in capsys.readouterr().err


@pytest.mark.parametrize(("wanted", "named"), [(Wanted(), REVISION), (Wanted(base="o/x"), None)])
def test_what_is_said_of_an_export_names_it_unless_the_base_goes_by_another_name(wanted, named):
    kept = Kept(factors_of(), 1.0, "in words")
    model = open_model(ID, revision=REVISION)
    assert about_factors(kept, model, wanted).revision == named


def test_a_model_that_is_named_again_is_read_at_its_revision():
    """As for a served model, whose prompts its own tokenizer writes."""
    config = load_config(None, [f"model.source={ID}", f"model.revision={REVISION}"])
    local = str(tiny.checkpoint("smollm2"))
    for source, revision in ((None, REVISION), (ID, REVISION), (local, None)):
        assert chat_model(config, source, placed=False).checkpoint.revision == revision
