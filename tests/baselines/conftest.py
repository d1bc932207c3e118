"""optax raises a float to an integer count, which strict dtypes refuse."""

import jax
import pytest


@pytest.fixture
def mixed_dtypes():
    """Adam may mix its types within one test."""
    with jax.numpy_dtype_promotion("standard"):
        yield
