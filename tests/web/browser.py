"""A page as Chromium shows it: what lies outside, what it asks for, what it complains of."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
HEIGHT = 900
PATIENCE = 120_000  # milliseconds: the clock of a busy machine must not fail a test

# Everything that holds text or a picture and does not lie within the window or its own box.
OUTSIDE = """() => {
  const wide = document.documentElement.clientWidth, found = [];
  const say = (what, e) => found.push(`${what}: ${e.tagName} ${e.textContent.slice(0, 60)}`);
  const shown = "td, th, p, li, pre, h1, h2, h3, svg, .tile, .example";
  for (const element of document.querySelectorAll(shown)) {
    const box = element.getBoundingClientRect();
    if (!box.width) continue;  // not shown
    if (box.left < -0.5 || box.right > wide + 0.5) say("outside the window", element);
    if (element.clientWidth && element.scrollWidth > element.clientWidth + 1) say("cut", element);
  }
  for (const picture of document.querySelectorAll("svg[role=img]")) {
    const frame = picture.getBoundingClientRect();
    for (const text of picture.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 ||
          box.bottom > frame.bottom + 1) say("outside its figure", text);
    }
  }
  return found;
}"""

# The least contrast (WCAG 2) of any text, with the text; figures stand on the page's own colour.
CONTRAST = """() => {
  const rgb = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => { const [r, g, b] = rgb(colour).map(c => c / 255)
    .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (colour !== "transparent" && !/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const shown = "h1, h2, p, td, th, li, pre, mark, b, span, svg text";
  let least = [99, ""];
  for (const element of document.querySelectorAll(shown)) {
    if (!element.textContent.trim() || !element.getBoundingClientRect().width) continue;
    const style = getComputedStyle(element);
    const text = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(text), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least[0]) least = [ratio, `${element.tagName} ${element.textContent.slice(0, 40)}`];
  }
  return least;
}"""


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a page did and how it looks."""

    width: int  # of everything, pixels
    outside: list[str]
    contrast: tuple[float, str]
    complaints: list[str]  # console errors, exceptions
    requests: list[str]  # but for the page itself


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; root may only run it without its sandbox."""
    from playwright.sync_api import sync_playwright

    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@contextmanager
def window(browser: Any, **options: Any) -> Iterator[Any]:
    """An empty page in a window of its own; `options` are those of playwright's contexts."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def look(browser: Any, address: str, width: int, scheme: str, picture: Path | None = None) -> Seen:
    """The page at `address` in a window of `width` pixels, light or dark; saved as `picture`."""
    size, complaints, requests = {"width": width, "height": HEIGHT}, [], []
    with window(browser, viewport=size, color_scheme=scheme, reduced_motion="reduce") as page:
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else 0)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: requests.append(asked.url))
        page.goto(address, wait_until="networkidle")
        for folded in page.query_selector_all("details"):
            folded.evaluate("element => { element.open = true; }")
        if picture:
            page.screenshot(path=picture, full_page=True)
        return Seen(
            page.evaluate("document.documentElement.scrollWidth"), page.evaluate(OUTSIDE),
            tuple(page.evaluate(CONTRAST)), complaints,
            [url for url in requests if url != address and not url.startswith("data:")],
        )  # fmt: skip
