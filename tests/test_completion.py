"""What shells and editors complete by."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nt_jax import cli
from nt_jax.completion import json_schema
from nt_jax.config.help import setting_table
from nt_jax.config.load import find_recipe, recipe_names
from nt_jax.options import COMMANDS

ROOT = Path(__file__).parents[1]


def at(schema: dict, dotted: str) -> dict:
    """What the schema says of a key."""
    found = schema
    for name in dotted.split("."):
        found = found["properties"][name]
        reference = found.get("$ref") or next(
            (part["$ref"] for part in found.get("allOf", ()) if "$ref" in part), None
        )
        if reference:
            found = schema["$defs"][reference.rpartition("/")[2]]
    return found


def test_the_schema_has_every_setting_with_its_words(capsys):
    assert cli.main("schema", []) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["required"] == ["model"] and schema["additionalProperties"] is False
    for key, field in setting_table().items():
        found = at(schema, key)
        assert found.get("description") == field.description and field.description, key
    assert at(schema, "eval.engine")["enum"] == ["jax", "openai"]
    assert at(schema, "tune.epochs")["minimum"] == 1


@pytest.mark.parametrize(
    "key",
    ["log", "eval.harness", "eval.served", "eval.extra", "compare.methods", "compare.tables"],
)
def test_the_schema_takes_a_word_where_a_recipe_may_have_one(key):
    assert {"type": "string"} in at(json_schema(), key)["anyOf"]


def test_the_schema_takes_a_number_for_a_table():
    assert {"type": "integer"} in at(json_schema(), "compare.tables")["anyOf"]


@pytest.mark.parametrize("name", recipe_names())
def test_every_key_of_a_recipe_is_in_the_schema(name):
    schema = json_schema()

    def walk(value, prefix: str) -> None:
        found = at(schema, prefix) if prefix else schema
        if isinstance(value, dict) and "properties" in found:
            for key, inner in value.items():
                assert key in found["properties"], f"{prefix}.{key}"
                walk(inner, f"{prefix}.{key}".lstrip("."))

    walk(yaml.safe_load(find_recipe(name).read_text()), "")


def completed(script: Path, *words: str) -> set[str]:
    """What bash offers after these words."""
    line = " ".join(words)
    code = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; "
        "COMP_POINT=${#COMP_LINE}; _shtab_nt_jax; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_bash_completes_commands_options_recipes_and_settings(tmp_path, capsys):
    pytest.importorskip("shtab", reason="shtab is in the extra `shell`")
    assert cli.main("completion", ["bash"]) == 0
    script = tmp_path / "nt-jax.bash"
    script.write_text(capsys.readouterr().out)
    assert completed(script, "nt-jax", "re") == {"report", "reproduce"}
    assert completed(script, "nt-jax", "''") >= set(COMMANDS)
    assert completed(script, "nt-jax", "train", "--dry") == {"--dry-run"}
    assert completed(script, "nt-jax", "train", "--config", "smollm2-1") == {
        "smollm2-135m", "smollm2-1.7b"
    }  # fmt: skip
    assert completed(script, "nt-jax", "train", "tune.ep") == {"tune.epochs="}
    assert cli.main("completion", ["zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef nt-jax")


def test_without_shtab_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main("completion", ["bash"]) == 2
    assert "pip install 'nt_jax[shell]'" in capsys.readouterr().err
    assert cli.main("completion", ["fish"]) == 2
    assert "invalid choice: 'fish'" in capsys.readouterr().err
