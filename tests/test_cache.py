"""What is kept between runs is found again, and only what was written for the same inputs."""

import os

import numpy as np
import pytest

from nt_jax import cache
from nt_jax.generate.chat import open_model
from tests import tiny


class Maker:
    """Makes the same arrays each time, and counts how often."""

    def __init__(self):
        self.made = 0

    def __call__(self) -> cache.Arrays:
        self.made += 1
        return {"a": np.arange(3, dtype=np.int32), "b": np.array([[0.5, np.nan]])}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where entries lie for the length of a test."""
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


def same(found: cache.Arrays) -> bool:
    expected = Maker()()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    return found.keys() == expected.keys()


def test_what_was_made_once_is_read_and_other_inputs_are_made_anew(folder):
    make = Maker()
    for key in ({"rows": [1, 2], "name": "x"}, {"name": "x", "rows": [1, 2]}):  # the same
        assert same(cache.kept(key, make))
    assert make.made == 1 and len([*folder.iterdir()]) == 1
    for place, other in enumerate(({"rows": [1, 3], "name": "x"}, {"rows": [1, 2]}), start=2):
        assert same(cache.kept(other, make))
        assert make.made == place


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "not a hash"])
def test_a_damaged_entry_is_made_anew(folder, damage):
    make = Maker()
    cache.kept({"n": 1}, make)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    flipped = bytes([*whole[:100], whole[100] ^ 1, *whole[101:]])
    now = {"cut": whole[:-1], "flipped": flipped, "emptied": b"", "not a hash": b"\xff" * 200}
    path.write_bytes(now[damage])
    assert same(cache.kept({"n": 1}, make)) and make.made == 2
    assert path.read_bytes() == whole  # and it is whole again
    cache.kept({"n": 1}, make)
    assert make.made == 2


@pytest.mark.parametrize("word", ["off", "OFF", "0", "no", "False"])
def test_words_that_switch_it_off_name_no_folder(monkeypatch, word):
    monkeypatch.setenv("NT_JAX_CACHE", word)
    assert cache.folder() is None


def test_switched_off_nothing_is_read_or_written(folder, monkeypatch):
    make = Maker()
    cache.kept({"n": 1}, make)
    before = [*folder.iterdir()]
    monkeypatch.setenv(cache.VARIABLE, cache.OFF)
    for _ in range(2):
        assert same(cache.kept({"n": 1}, make))
        cache.kept({"n": 2}, make)
    assert make.made == 5 and [*folder.iterdir()] == before


def test_a_folder_that_takes_nothing_only_costs_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file"))
    make = Maker()
    assert same(cache.kept({"n": 1}, make)) and same(cache.kept({"n": 1}, make))
    assert make.made == 2 and (tmp_path / "file").read_text() == "in the way"


def test_unless_told_entries_lie_where_caches_do(monkeypatch, tmp_path):
    assert cache.folder() is None and os.environ[cache.VARIABLE] == cache.OFF  # as tests run
    monkeypatch.delenv(cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "nt_jax" / "base"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "home" / ".cache" / "nt_jax" / "base"


def test_own_answers_are_asked_once_for_each_model_and_question(folder):
    model, other = (open_model(str(tiny.checkpoint("smollm2", seed=seed))) for seed in (0, 1))
    asked = ["Hi", "Why?", ""]
    expected = model.answer(asked, 5)
    assert model.own_answers(asked, 5) == expected
    silent = open_model(str(tiny.checkpoint("smollm2")))
    object.__setattr__(silent, "answer", lambda *_, **__: pytest.fail("it was asked again"))
    assert silent.own_answers(asked, 5) == expected
    opened = [[5], [6], [7]]
    for found, answer in (
        (other.own_answers(asked, 5), other.answer(asked, 5)),
        (model.own_answers(asked, 4), model.answer(asked, 4)),
        (model.own_answers(asked[::-1], 5), expected[::-1]),
        (model.own_answers(asked, 5, openings=opened), model.answer(asked, 5, openings=opened)),
    ):
        assert found == answer != expected
    assert len([*folder.iterdir()]) == 5
    assert model.own_answers([], 5) == []
