"""The finished run of tests/run, to be looked at."""

from tests.run.conftest import finished, model, recipe  # noqa: F401
