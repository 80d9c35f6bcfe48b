"""The site in a real browser, opened from the disk: desktop and phone, light and dark, without a network."""

import time

import pytest
from headless import chromium, needs_chromium, show

pytestmark = needs_chromium

PAGES = ("index", "quickstart", "methods", "engine", "reliability", "performance", "api/methods", "api/runs")

LAYOUT = """
const frame = document.querySelector(".md-content").getBoundingClientRect();
const scrolls = (node) => ["auto", "scroll"].includes(getComputedStyle(node).overflowX);
const held = (node) => {
  for (let at = node; at && at !== document.body; at = at.parentElement) {
    if (scrolls(at) && at.getBoundingClientRect().right <= innerWidth + 1) return true;
  }
  const box = node.getBoundingClientRect();
  return box.left >= frame.left - 1 && box.right <= frame.right + 1;
};
const loose = [...document.querySelectorAll(".md-content :is(table, pre, p, li, h1, h2, h3, img)")].filter(
  (node) => node.getClientRects().length && !held(node)
);
const text = document.querySelector(".md-content article");
return {
  scrollWidth: document.documentElement.scrollWidth,
  loose: loose.map((node) => `${node.tagName} ${node.textContent.slice(0, 40)}`),
  headings: document.querySelectorAll(".md-content h1").length,
  size: parseFloat(getComputedStyle(text).fontSize),
  code: Math.min(...[...document.querySelectorAll(".md-content pre code")].map(
    (node) => parseFloat(getComputedStyle(node).fontSize)), 99),
  background: getComputedStyle(document.body).backgroundColor,
};
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def show_file(browser, address: str, width: int, scheme: str) -> None:
    """Open a page, which may ask for nothing but files."""
    asked = show(browser, address, width, scheme)
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages(browser, site, width, scheme):
    for page in PAGES:
        show_file(browser, (site / f"{page}.html").as_uri(), width, scheme)
        layout = browser.execute_script(LAYOUT)
        assert layout["scrollWidth"] <= width, page
        assert layout["loose"] == [], page
        assert layout["headings"] == 1, page
        assert layout["size"] >= 15, page
        assert layout["code"] >= 12, page
        red, green, blue = map(int, layout["background"].removeprefix("rgb(").removesuffix(")").split(","))
        assert (red + green + blue < 200) == (scheme == "dark"), page


@pytest.mark.parametrize("query", ["death ratio", "UnsupportedLayerError"])
def test_the_search_finds_without_a_server(browser, site, query):
    show_file(browser, (site / "index.html").as_uri(), 1280, "light")
    box = browser.find_element("css selector", "input.md-search__input")
    browser.execute_script("document.querySelector('#__search').click()")
    box.send_keys(query)
    found: list[str] = []
    deadline = time.monotonic() + 30
    while not found and time.monotonic() < deadline:
        time.sleep(0.1)
        found = [
            a.get_attribute("href") for a in browser.find_elements("css selector", "a.md-search-result__link")
        ]
    assert found
    assert all(address.startswith("file:") for address in found)
    assert browser.get_log("browser") == []
