"""How the tests ask doctor: as a command, for its JSON."""

import json

from nt_jax import cli


def asked(capsys, monkeypatch, *words: str) -> tuple[int, dict]:
    """(exit status, what `nt-jax doctor WORDS --json` prints)."""
    monkeypatch.setattr(cli, "_enter", lambda: None)
    code = cli.main("doctor", [*words, "--json"])
    return code, json.loads(capsys.readouterr().out)
