"""The site in a real browser, opened from the disk: desktop and phone, light and dark, without a network."""

import json
import shutil
import time

import pytest

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no chromium or no chromedriver; on Debian: apt-get install chromium chromium-driver",
)

ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

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
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


def show(browser, address: str, width: int, scheme: str) -> None:
    """Open a page; no error may be logged, and nothing but files may be asked for."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get_log("performance")
    browser.get(address)
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages(browser, site, width, scheme):
    for page in PAGES:
        show(browser, (site / f"{page}.html").as_uri(), width, scheme)
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
    show(browser, (site / "index.html").as_uri(), 1280, "light")
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
