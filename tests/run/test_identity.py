"""Which adapter was measured: the bytes of its files, and nothing that is no file."""

import os
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from nt_jax import cli
from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.errors import CheckpointError
from nt_jax.eval.under_test import adapted_model
from nt_jax.export import lora
from nt_jax.export.folder import Wanted
from nt_jax.generate.chat import open_model
from nt_jax.run.subjects import identity
from tests import tiny
from tests.advice import followed
from tests.export.test_adapters import factors_of

NAMES = ("adapter_config.json", "adapter_model.safetensors")
NO_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a loop": lambda path: path.symlink_to(path.name),
    "nothing": lambda path: path.symlink_to("nowhere"),
}


@pytest.fixture(scope="module")
def model():
    return open_model(str(tiny.checkpoint("smollm2")))


@pytest.fixture
def adapter(model, tmp_path) -> Path:
    lora.write(model, factors_of(), tmp_path / "lora", Wanted())
    return tmp_path / "lora"


def identity_of(adapter: Path) -> str:
    subject = types.SimpleNamespace(
        name="adapted",
        scale_LF=None,
        server=None,
        model=types.SimpleNamespace(checkpoint=open_checkpoint(str(tiny.checkpoint("smollm2")))),
    )
    return identity(subject, str(adapter))  # type: ignore[arg-type]


def test_an_adapters_identity_is_that_of_its_files(adapter):
    whole = identity_of(adapter)
    assert identity_of(adapter) == whole
    (adapter / "README.md").write_text("other words")
    assert identity_of(adapter) == whole
    weights = adapter / NAMES[1]
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert identity_of(adapter) != whole


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_no_part_of_it_and_is_not_waited_for(adapter, kind):
    whole = identity_of(adapter)
    NO_FILES[kind](adapter / "adapter_more")
    assert identity_of(adapter) == whole
    (adapter / NAMES[1]).unlink()
    without = identity_of(adapter)
    NO_FILES[kind](adapter / NAMES[1])
    assert identity_of(adapter) == without != whole


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", NO_FILES)
def test_an_adapter_is_put_on_once_its_files_are_files(adapter, model, kind, name):
    def measured_with_it():
        content = (adapter / name).read_bytes()
        (adapter / name).unlink()
        NO_FILES[kind](adapter / name)
        said = r"(no PEFT adapter: adapter_model.* Give the folder of a whole|no factors .* Give a)"
        yield lambda: adapted_model(model, str(adapter), "lora"), said
        (adapter / name).rmdir() if kind == "a folder" else (adapter / name).unlink()
        (adapter / name).write_bytes(content)

    followed(measured_with_it())


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_the_command_line_says_so_in_one_line(adapter, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_enter", lambda: None)
    (adapter / NAMES[1]).unlink()
    NO_FILES[kind](adapter / NAMES[1])
    words = ["--model", str(tiny.checkpoint("smollm2")), "--adapter", str(adapter)]
    assert cli.main("eval", [*words, "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "no PEFT adapter: adapter_model.safetensors is missing there, or no file. Give" in said
    assert said.count("\n") == 1


def test_factors_in_the_place_of_an_adapter_say_what_to_give(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"no factors there, .* Give a file or a folder"):
        adapted_model(model, str(tmp_path), "x")
