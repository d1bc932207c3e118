"""The site: built strict, complete, without a request to elsewhere, and as Markdown meant it."""

import functools
import html
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.web.browser import look, window

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)[^>]*\bsrc="([^"]+)"|<link[^>]*href="([^"]+)"|
                         url\(["']?(https?:[^)"']+)|@import\s+["']([^"']+)""",
    re.X,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built from this checkout."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    """Where the site is served on this machine."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Silent, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def pages(site: Path) -> list[Path]:
    return [path for path in sorted(site.rglob("*.html")) if path.name != "404.html"]


def article(page: Path) -> str:
    """What stands on the page between its menus."""
    return page.read_text().split("<article")[1].split("</article>")[0]


def test_every_page_is_there_and_none_is_empty(site):
    names = {page.relative_to(site).with_suffix("").as_posix() for page in pages(site)}
    assert names == {path.stem for path in (ROOT / "docs").glob("*.md")} | {"api"}
    for page in pages(site):
        assert len(re.sub(r"<[^>]+>|\s+", " ", article(page)).split()) > 100, page.name


def test_every_page_can_be_reached_from_the_menu():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"\b([a-z_]+\.md)\b", text[text.index("nav:\n") :])
    assert sorted(listed) == sorted([*(p.name for p in (ROOT / "docs").glob("*.md")), "api.md"])
    assert yaml.safe_load(text)["theme"]["font"] is False


def test_nothing_is_fetched_from_elsewhere(site):
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        for found in FETCHED.findall(file.read_text()):
            assert not re.match(r"(?:https?:)?//", "".join(found)), (file.name, found)


def test_tables_lists_and_code_came_out_as_such(site):
    """GitHub takes a list or table right behind a line of text for one; Markdown's rules do not."""
    for page in pages(site):
        shown = article(page)
        for block in re.findall(r"<p>(.*?)</p>", shown, re.S):
            plain = html.unescape(re.sub(r"<code>.*?</code>|<[^>]+>", "", block, flags=re.S))
            assert "```" not in plain and not re.search(r"^\||\|[-:]{2,}\|", plain, re.M), plain
            assert not re.search(r"^(?:- |\d+\. )", plain, re.M), (page.name, plain)
            assert ":::" not in plain, plain


def test_the_api_page_has_every_public_name(site):
    import nt_jax

    shown = (site / "api.html").read_text()
    homes = nt_jax._HOMES
    for name in set(nt_jax.__all__) - {"__version__"}:
        assert f'id="{homes[name]}.{name}"' in shown, name
    assert len(re.findall(r'<h3 id="nt_jax\.', shown)) == len(homes)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("name", ["index", "dial", "comparison", "api"])
def test_pages_ask_for_nothing_elsewhere_and_complain_of_nothing(
    browser, address, name, width, scheme
):
    seen = look(browser, f"{address}/{name}.html", width, scheme)
    assert seen.complaints == []
    assert [url for url in seen.requests if not url.startswith((address, "blob:"))] == []
    assert seen.width <= width
    if width == 1400:  # on a phone wide tables scroll within their own box
        assert seen.outside == []


def test_the_pages_open_from_the_disk_too(browser, site):
    seen = look(browser, (site / "index.html").as_uri(), 1400, "light")
    assert seen.complaints == []
    assert [url for url in seen.requests if not url.startswith(site.as_uri())] == []


def test_the_search_finds_a_page(browser, address):
    with window(browser) as page:
        page.goto(f"{address}/index.html")
        page.fill("input[name=query]", "dual use")
        page.wait_for_function(
            """() => {
          // Said again until it is heard: the page may not have listened yet.
          document.querySelector("input[name=query]").dispatchEvent(new KeyboardEvent("keyup"));
          return document.querySelector(".md-search-result__item a");
        }""",
            polling=500,
        )
        found = page.eval_on_selector_all(
            ".md-search-result__item a", "all => all.map(a => a.href)"
        )
    assert any("limits.html" in link for link in found)
