"""The checks of this folder can fail, and a missing browser is said in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.web.browser import look
from tests.web.conftest import NEEDED

ROOT = Path(__file__).parents[2]
BROKEN = {
    "wide": "<table><tr><td>a</td><td style='min-width: 900px'>b</td></tr></table>",
    "clipped": "<p style='width: 40px; overflow: hidden; white-space: nowrap'>a longer text</p>",
    "pale": "<p style='color: #bbb; background: #fff'>pale</p>",
    "asks": "<img src='file:///nowhere.png'>",
    "fails": "<script>nothing.at_all()</script>",
    "figure": "<svg role='img' width='50' height='20' style='overflow: visible'>"
    "<text x='30' y='15'>behind the edge</text></svg>",
    "sound": "<p>fine</p>",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_page_is_seen_to_be_broken(browser, tmp_path, name):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><link rel=icon href='data:,'><body>{BROKEN[name]}")
    seen = look(browser, page.as_uri(), 400, "light")
    found = {
        "wide": seen.width > 400 and "outside the window" in "".join(seen.outside),
        "clipped": seen.outside == ["cut: P a longer text"],
        "pale": seen.contrast[0] < 2,
        "asks": bool(seen.requests),
        "fails": any("nothing is not defined" in said for said in seen.complaints),
        "figure": "outside its figure" in "".join(seen.outside),
    }
    assert [key for key, seen_it in found.items() if seen_it] == ([] if name == "sound" else [name])


@pytest.mark.parametrize(("ci", "says"), [("true", "failed"), ("", "skipped")])
def test_without_a_browser(ci, says, tmp_path):
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-rsE", "-m", "web"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "tests/web/test_browser.py", "-k", "sound"],
        cwd=ROOT, text=True, capture_output=True,
        env=os.environ | {"CI": ci, "CHROMIUM": str(tmp_path / "none")},
    )  # fmt: skip
    assert NEEDED in done.stdout
    assert (done.returncode != 0) is (says == "failed")
    assert "1 skipped" in done.stdout if says == "skipped" else "1 error" in done.stdout
