"""The report in Chromium: nothing cut, dark mode, no error, no request."""

import re

import pytest

from tests.web import pages
from tests.web.browser import look, window

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
        with window(browser, color_scheme=scheme) as opened:
            opened.goto(page)
            found[scheme] = opened.evaluate("""() => {
              const of = (selector, what) =>
                getComputedStyle(document.querySelector(selector))[what];
              return [of("body", "backgroundColor"), of("body", "color"), of("svg text", "fill"),
                      of("svg path[style*='series-1']", "fill")];
            }""")
    light, dark = found["light"], found["dark"]
    assert all(one != other for one, other in zip(light, dark, strict=True)), found
    assert light[2] == light[1] and dark[2] == dark[1]  # a figure's text is the page's


def test_rows_are_cards_on_a_phone_and_each_cell_says_what_it_is(browser, page):
    with window(browser, viewport={"width": 400, "height": 900}) as opened:
        opened.goto(page)
        head = opened.evaluate("getComputedStyle(document.querySelector('thead')).display")
        labels = opened.evaluate("""[...document.querySelectorAll("td")].filter(cell =>
          cell.textContent).map(cell => [cell.cellIndex, cell.dataset.label,
          cell.closest("table").tHead.rows[0].cells[cell.cellIndex].textContent])""")
    assert head == "none" and len(labels) > 40
    assert all(label == head for _, label, head in labels)


def test_the_judge_shows_its_words_and_where_judges_disagree(browser, tmp_path):
    with window(browser) as opened:
        opened.goto(pages.usual(tmp_path).as_uri())
        marked = opened.evaluate("[...document.querySelectorAll('mark')].map(m => m.textContent)")
        text = opened.evaluate("document.body.innerText")
        long = opened.evaluate("""[...document.querySelectorAll(".pair > div")].filter(one =>
          one.innerText.includes("cut after 80")
          ).map(one => one.lastElementChild.innerText.length)""")
    assert marked and set(marked) == {"I can't help"}
    assert "Judges disagree: guard:other: refused" in text
    assert re.search(r"Cohen's kappa of phrases-v2 / guard:other, tuned: -?\d", text)
    assert long and max(long) <= 80
