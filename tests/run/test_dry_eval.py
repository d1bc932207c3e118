"""`--dry-run` of a measurement: what that would refuse is refused, and nothing is written."""

from unittest import mock

import pytest

from nt_jax import cli
from nt_jax.exits import DONE, MISTAKE


def planned(command: str, *words: str) -> int:
    with mock.patch.object(cli, "_enter"):
        return cli.main(command, [*words, "--dry-run"])


def test_a_model_is_looked_at_and_nothing_is_written(recipe, model, tmp_path, capsys):
    out = tmp_path / "measured"
    words = ("--config", str(recipe), "--model", str(model), f"run_dir={out}")
    assert planned("eval", *words) == DONE
    said = capsys.readouterr().out
    assert f"run directory {out}" in said and "requests, 0 choice questions" in said
    assert "nothing was written" in said and "may change" not in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eval", "--model", "nope"), "nope"),
        (("eval", "--adapter", "nope"), "nope"),
        (("compare", "model.frozen=int8"), "model.frozen = int8: the methods of a comparison"),
    ],
)
def test_what_the_command_refuses_its_plan_refuses(words, said, recipe, tmp_path, capsys):
    command, *rest = words
    out = f"run_dir={tmp_path / 'out'}"
    assert planned(command, "--config", str(recipe), out, *rest) == MISTAKE
    assert said in capsys.readouterr().err
