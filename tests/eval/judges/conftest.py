"""A tiny classifier to judge with."""

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """A tiny random RoBERTa with two labels; its weights are large, so that both occur."""
    pytest.importorskip("torch")
    return tiny.write_classifier(tmp_path_factory.mktemp("models") / "classifier")
