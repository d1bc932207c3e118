"""The small model and the small finished run of tests/run."""

from tests.run.conftest import finished, model, recipe

__all__ = ["finished", "model", "recipe"]
