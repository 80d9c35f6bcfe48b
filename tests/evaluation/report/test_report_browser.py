"""The page of a report in a real browser: at desktop and phone width, light and dark, without a network."""

import pytest
from headless import chromium, needs_chromium, show
from report_runs import write_study

from ndsnn.evaluation.report.report import build_report, write_report

pytestmark = needs_chromium

CONTRAST = """
const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = (rgb) => {
  const [r, g, b] = rgb.slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const background = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const worst = {};
let count = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.getClientRects().length) continue;
  const style = getComputedStyle(node);
  const colour = node instanceof SVGElement ? style.fill : style.color;
  const [a, b] = [luminance(parse(colour)), luminance(background(node))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  count += 1;
  if (ratio < 4.5) worst[`${node.tagName} ${walker.currentNode.data.trim().slice(0, 20)}`] = ratio;
}
return [count, worst];
"""

LAYOUT = """
const wide = document.documentElement;
const inside = (box, frame) => box.left >= frame.left - 1 && box.right <= frame.right + 1;
const tables = [...document.querySelectorAll("table")].map((table) => {
  const frame = table.closest(".scroll");
  return {
    container: inside(frame.getBoundingClientRect(), document.querySelector("main").getBoundingClientRect()),
    scrolls: table.scrollWidth <= frame.clientWidth + 1 || getComputedStyle(frame).overflowX === "auto",
    caption: !!table.caption,
    rows: table.rows.length,
  };
});
const figures = [...document.querySelectorAll(".panel svg")].map((svg) => {
  const drawn = svg.getBoundingClientRect(), shapes = svg.querySelectorAll("path, use").length;
  const texts = [...svg.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
  return {
    width: drawn.width, height: drawn.height, shapes, alt: svg.getAttribute("aria-label") || "",
    inside: inside(drawn, document.querySelector("main").getBoundingClientRect()),
    cut: texts.filter((text) => text.right > drawn.right + 2 || text.left < drawn.left - 2).length,
    size: Math.min(...texts.map((text) => Math.min(text.width, text.height))),
  };
});
const links = document.querySelectorAll("nav a").length;
return { scrollWidth: wide.scrollWidth, innerWidth, tables, figures, links };
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("browser")
    made = build_report([write_study(root / "study", seeds=1)])
    write_report(made, root / "report")
    return made, (root / "report" / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page(browser, page, width, scheme):
    made, address = page
    asked = show(browser, address, width, scheme)
    assert {url for url in asked if not url.startswith("data:")} <= {address}
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 22, 26)") == (scheme == "dark")

    layout = browser.execute_script(LAYOUT)
    assert layout["innerWidth"] == width
    assert layout["scrollWidth"] <= width
    assert len(layout["tables"]) == len(made.tables)
    for table in layout["tables"]:
        assert table["container"]
        assert table["scrolls"]
        assert table["caption"]
        assert table["rows"] > 2
    assert len(layout["figures"]) == sum(len(figure.panels) for figure in made.figures)
    for figure in layout["figures"]:
        assert figure["width"] > 250
        assert figure["height"] > 150
        assert figure["shapes"] > 10
        assert figure["inside"]
        assert figure["cut"] == 0, figure["alt"]
        assert figure["size"] > 6
        assert len(figure["alt"]) > 30
    assert layout["links"] >= len(made.parts)

    count, unreadable = browser.execute_script(CONTRAST)
    assert count > 500
    assert unreadable == {}
