"""The tiny model and its recipe of tests/run, and the run on it by one process."""

from pathlib import Path

import pytest

from nt_jax import exits
from tests.processes.group import alone, words
from tests.run.conftest import model, recipe

__all__ = ["model", "one", "programs", "recipe"]


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Path:
    """Compiled programs, which a run that goes on need not make again."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def one(request, tmp_path_factory, programs) -> Path:
    """The run by one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    done = alone(words("train", request.getfixturevalue("recipe"), folder), programs)
    assert done.code == exits.DONE, done.error
    return folder
