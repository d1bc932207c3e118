"""The README's commands from recipe to export, as they stand there, on the tiny finished run."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from nt_jax import cli
from nt_jax.config.load import load_config
from tests.run import small
from tests.test_readme import blocks_to_run, lines

pytestmark = pytest.mark.xdist_group("run")
COMMANDS = [line for block in blocks_to_run("bash") for line in lines(block)]


@pytest.fixture(scope="module")
def folder(finished, tmp_path_factory) -> Path:
    """Where a person stands: my-model.yaml, and its run as `train` left it."""
    home = tmp_path_factory.mktemp("home")
    plain = load_config(str(finished.recipe), [*small.SETTINGS, "name=my-model"])
    settings = plain.model_dump(mode="json", exclude_unset=True)
    (home / "my-model.yaml").write_text(yaml.safe_dump(settings))
    shutil.copytree(finished.folder, home / "runs" / "my-model", symlinks=True)
    return home


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_runs(line, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli, "_enter", lambda: None)  # it changes the whole process
    before = {*os.listdir(folder)}
    _, _, module, *words = shlex.split(line)
    command = module.removeprefix("nt_jax.")
    with small.small_programs():
        assert cli.main(command, words) == 0
    said = capsys.readouterr().out
    made = {*os.listdir(folder)} - before
    if "--dry-run" in words:
        assert "nothing was written" in said and not made
    elif command == "train":
        # The run is the one that these settings make; its report alone reads the name.
        assert small.kept(said) == {*small.STAGES} - {"report"}
    elif command == "chat":
        assert "untuned" in said and said.count("judged: ") == 2
    elif command == "doctor":
        assert "fits" in said and "yes" in said
    else:
        out = Path(words[words.index("--out") + 1])
        assert made == {str(out)}
        configs = [json.loads(path.read_text()) for path in out.rglob("config.json")]
        assert configs and configs[0]["model_type"] == "llama"
