"""The finished run of tests/train, to be copied and compared within."""

from tests.run.conftest import finished, model, recipe  # noqa: F401
