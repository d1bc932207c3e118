"""How tests of loaders look at errors."""

import pytest

from nt_jax.errors import DataError


@pytest.fixture
def error_of(capfd):
    """The message of the DataError that a loader raises; nothing else may reach the screen."""

    def run(load, *args, **kwargs):
        with pytest.raises(DataError) as caught:
            load(*args, **kwargs)
        assert capfd.readouterr() == ("", "")
        return str(caught.value)

    return run
