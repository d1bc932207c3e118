"""The stages of a comparison: which settings repeat them, and which methods are left out of it."""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from nt_jax.compare import bench
from nt_jax.compare.lineup import needed
from nt_jax.compare.method import Method, UnusableMethodError
from nt_jax.compare.search import Chosen
from nt_jax.config.load import load_config
from nt_jax.config.schema import CompareConfig
from nt_jax.errors import DataError
from nt_jax.rundir import RunDirectory

CHOSEN = Chosen("mine", {}, 0.5, 1, [])
KNOWN = ("weights", "data", "answers", "attribute", "select", "train", "tests", "limit")


@pytest.fixture
def made(monkeypatch) -> bench.Bench:
    """A bench on which nothing is fitted and nothing is measured."""
    for name, does in (
        ("search", lambda *_: CHOSEN), ("read_chosen", lambda _: (CHOSEN, {})),
        ("built", lambda *_: None),
    ):  # fmt: skip
        monkeypatch.setattr(bench, name, does)
    monkeypatch.setattr(bench.Bench, "numbers", lambda *_: Path("numbers"))
    found = bench.Bench.__new__(bench.Bench)
    found.__dict__.update(data=None, testing=None, tests=None, beside=[])
    found.config, found.known = load_config("smollm2-135m"), dict.fromkeys(KNOWN, "k")
    return found


def test_a_method_whose_test_prompts_do_not_fit_the_context_is_left_out(
    made, monkeypatch, tmp_path
):
    def too_long(*_):
        raise DataError("prompt 3 of 5 has 900 tokens")

    monkeypatch.setattr(bench, "answer_all", too_long)
    mine = Method("mine", "Mine", lambda *_: {}, mock.Mock())
    with RunDirectory(tmp_path) as made.inner:
        with pytest.raises(UnusableMethodError, match="900 tokens"):
            made.method(mine, [{}])
        assert made.inner.folder("fit-mine").exists()  # and is there where a limit is raised


def test_the_strength_of_the_export_refits_those_that_read_it_alone(made):
    methods = needed(CompareConfig(methods=("neurontune", "dinm", "lora"), tables=("7",)))
    keys: list[dict[str, str]] = []
    made.inner = SimpleNamespace(
        carry=lambda stage, key, _: keys[-1].update({stage.name: key}) or Path(stage.name)
    )
    for strength in (None, 0.5):
        export = made.config.export.model_copy(update={"strength": strength})
        made.config = made.config.model_copy(update={"export": export})
        keys.append({})
        for method in methods:
            made.method(method, [{}])
    changed = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    fits = {name.removeprefix("fit-") for name in changed if name.startswith("fit-")}
    assert "neurontune" in fits and not {"dinm", "lora"} & fits
    assert fits == {"neurontune", *(m.name for m in methods if m.name.startswith("neurons_"))}
