"""The stages of a comparison: what repeats them, and which methods are left out of it."""

import dataclasses
import shutil
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
from nt_jax.eval.metrics.result import BASE, TUNED
from nt_jax.rundir import RunDirectory

CHOSEN = Chosen("mine", {"strength": 0.7}, 0.5, 1, [])
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
    found.config, found.known = load_config("smollm2-135m"), dict.fromkeys(KNOWN, "k")
    data = SimpleNamespace(config=found.config)
    found.__dict__.update(data=data, testing=None, tests=None, beside=[])
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


OF_RUN = ("answers", "select", "train", BASE, TUNED)


@dataclasses.dataclass
class Given:
    """Enough of a run's inputs for a bench on which nothing is asked."""

    model: SimpleNamespace = dataclasses.field(
        default_factory=lambda: SimpleNamespace(under=lambda _: None)
    )
    records: None = None
    tests: SimpleNamespace = dataclasses.field(
        default_factory=lambda: SimpleNamespace(first=lambda _: None)
    )
    hashes: dict[str, str] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(("weights", "data", "tests", "measuring"), "h")
    )


def make(run: RunDirectory, name: str, text: str) -> None:
    """A stage of the run, always of one key."""
    with run.stage(name, "k") as folder:
        (folder / "file").write_text(text)


def compared(folder: Path, method: Method) -> None:
    """Carry a method to its numbers in the comparison of the run at `folder`."""
    with RunDirectory(folder) as outer, RunDirectory(folder / "compare") as inner:
        known = bench.Bench(load_config("smollm2-135m"), Given(), outer, inner)
        known.numbers(BASE, lambda: known.base, outer.folder(BASE), known.known[BASE])
        known.method(method, [{}])


@pytest.fixture
def repeated(monkeypatch) -> list[str]:
    """What was done: every piece of work of `compared` adds its name, and writes how many."""
    done: list[str] = []

    def note(name: str, folder: Path) -> None:
        done.append(name)
        (folder / "file").write_text(str(len(done)))

    monkeypatch.setattr(bench, "search", lambda data, method, _, to: note("fit", to) or CHOSEN)
    monkeypatch.setattr(bench, "read_chosen", lambda _: (CHOSEN, {}))
    monkeypatch.setattr(bench, "built", lambda *_: None)
    monkeypatch.setattr(bench, "take_over", lambda *_: None)
    monkeypatch.setattr(bench, "answer_all", lambda *rest: note("answers", rest[-1]) or "")
    monkeypatch.setattr(bench.pipeline, "scorer_of", lambda *_: None)
    monkeypatch.setattr(
        bench.pipeline, "measure_stage", lambda *rest, **_: note("numbers", rest[4]) or ""
    )
    return done


@pytest.mark.parametrize(
    ("again", "repeats"),
    [
        ("train", ["fit", "answers", "numbers"]),
        ("answers", ["fit", "answers", "numbers"]),
        ("select", []),  # this method does not read it
        (TUNED, ["answers", "numbers"]),
        (BASE, ["numbers", "numbers"]),
    ],
)
def test_what_the_run_has_made_again_repeats_what_rests_on_it(again, repeats, repeated, tmp_path):
    """With the same settings, that is with the same key, but not to the same bytes."""
    mine = Method(
        "mine", "Mine", lambda *_: {}, mock.Mock(),
        inputs=("train",), answered=lambda *_: (Path("tuned"), TUNED),
    )  # fmt: skip
    with RunDirectory(tmp_path) as run:
        run.record(keys=dict.fromkeys(OF_RUN, "k"))
        for name in OF_RUN:
            make(run, name, "once")
    for text, expected in (
        ("once", ["numbers", "fit", "answers", "numbers"]), ("once", []), ("again", repeats),
        ("again", []),
    ):  # fmt: skip
        with RunDirectory(tmp_path) as run:
            make(run, again, text)
        repeated.clear()
        compared(tmp_path, mine)
        assert repeated == expected


def test_a_fit_that_was_made_again_repeats_its_answers_and_numbers(repeated, tmp_path):
    with RunDirectory(tmp_path) as run:
        run.record(keys=dict.fromkeys(OF_RUN, "k"))
        for name in OF_RUN:
            make(run, name, "once")
    compared(tmp_path, Method("mine", "Mine", lambda *_: {}, mock.Mock()))
    shutil.rmtree(tmp_path / "compare" / "fit-mine")
    repeated.append("between")  # so that it writes another number
    compared(tmp_path, Method("mine", "Mine", lambda *_: {}, mock.Mock()))
    assert repeated[-3:] == ["fit", "answers", "numbers"]
