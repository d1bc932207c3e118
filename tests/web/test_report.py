"""The report in Chromium: nothing cut, dark mode, no error, no request."""

import re

import pytest

from tests.web import pages
from tests.web.browser import look

READABLE = 4.5  # WCAG 2 AA for text
WIDTHS, SCHEMES = (1400, 800, 400), ("light", "dark")


@pytest.fixture(scope="module", params=[pages.usual, pages.longest], ids=["usual", "longest"])
def page(request, tmp_path_factory) -> str:
    return request.param(tmp_path_factory.mktemp("report")).as_uri()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_everything_lies_inside_the_window_and_can_be_read(browser, page, width, scheme):
    seen = look(browser, page, width, scheme)
    assert seen.width <= width and seen.outside == []
    assert seen.contrast[0] >= READABLE, seen.contrast
    assert seen.complaints == [] and seen.requests == []


def test_colours_of_page_and_figures_follow_the_scheme(browser, page):
    found = {}
    for scheme in SCHEMES:
        context = browser.new_context(color_scheme=scheme)
        opened = context.new_page()
        opened.goto(page)
        found[scheme] = opened.evaluate("""() => {
          const of = (selector, what) => getComputedStyle(document.querySelector(selector))[what];
          return [of("body", "backgroundColor"), of("body", "color"), of("svg text", "fill"),
                  of("svg path[style*='series-1']", "fill")];
        }""")
        context.close()
    light, dark = found["light"], found["dark"]
    assert all(one != other for one, other in zip(light, dark, strict=True)), found
    assert light[2] == light[1] and dark[2] == dark[1]  # a figure's text is the page's


def test_rows_are_cards_on_a_phone_and_each_cell_says_what_it_is(browser, page):
    context = browser.new_context(viewport={"width": 400, "height": 900})
    opened = context.new_page()
    opened.goto(page)
    assert opened.evaluate("getComputedStyle(document.querySelector('thead')).display") == "none"
    labels = opened.evaluate("""[...document.querySelectorAll("td")].filter(cell =>
      cell.textContent).map(cell => [cell.cellIndex, cell.dataset.label,
      cell.closest("table").tHead.rows[0].cells[cell.cellIndex].textContent])""")
    assert len(labels) > 40
    assert all(label == head for _, label, head in labels)
    context.close()


def test_the_judge_shows_its_words_and_where_judges_disagree(browser, tmp_path):
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(pages.usual(tmp_path).as_uri())
    marked = opened.evaluate("[...document.querySelectorAll('mark')].map(one => one.textContent)")
    assert marked and set(marked) == {"I can't help"}
    text = opened.evaluate("document.body.innerText")
    assert "Judges disagree: guard:other: refused" in text
    assert re.search(r"Cohen's kappa of phrases-v2 / guard:other, tuned: -?\d", text)
    long = opened.evaluate("""[...document.querySelectorAll(".pair > div")].filter(one =>
      one.innerText.includes("cut after 80")).map(one => one.lastElementChild.innerText.length)""")
    assert long and max(long) <= 80
    context.close()
