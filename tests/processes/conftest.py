"""The tiny model and its recipe of tests/run."""

from tests.run.conftest import model, recipe  # noqa: F401
