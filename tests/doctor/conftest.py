"""What all tests of doctor have in common."""

import pytest

from nt_jax.doctor import look
from nt_jax.run.work import Machine


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A machine of known speed: measuring it is no part of these tests."""
    monkeypatch.setattr(look, "this_machine", lambda dtype: Machine(2e11, 1e10))
