"""One browser for all tests here. Without one they are skipped, and fail where CI=true."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.web import browser as chrome

HERE = Path(__file__).parent
NEEDED = "needs Chromium: apt-get install chromium, or name one: CHROMIUM=/path/to/chrome"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is off by default."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("web")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    if not chrome.CHROMIUM or not Path(chrome.CHROMIUM).is_file():
        if os.environ.get("CI") == "true":
            pytest.fail(NEEDED, pytrace=False)
        pytest.skip(NEEDED)
    with chrome.chromium() as opened:
        yield opened
