"""The site: built strictly, whole in itself, every link and anchor there, every public name in the API once."""

import ast
import html
import importlib
import inspect
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml
from doc_pages import DOCS, PAGES, ROOT, name

import ndsnn
from ndsnn import config, data, engine, errors, interop, losses, models, sparse, surrogates
from ndsnn.sparse import methods

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
DIRECTIVE = re.compile(r"^::: (ndsnn[\w.]*)", flags=re.MULTILINE)
PUBLIC = [ndsnn, models, sparse, methods, engine, data, interop]


class Page(HTMLParser):
    """What a page loads, links to and offers as anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = {key: value or "" for key, value in attrs}
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(values["href"])
        elif LOADED.get(tag) in values:
            self.loads.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def pages(site):
    return {path.resolve(): Page(path) for path in site.rglob("*.html")}


def test_every_page_is_there(site):
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()
    assert not (site / "hooks").exists()


def test_nothing_comes_from_another_host(site, pages):
    for path, page in pages.items():
        assert page.loads
        for address in page.loads:
            parts = urlsplit(address)
            assert parts.scheme in ("", "data"), f"{path} loads {address}"
            assert not parts.netloc, f"{path} loads {address}"
            base = site if parts.path.startswith("/") else path.parent  # 404.html is for any depth
            assert parts.scheme or (base / unquote(parts.path).lstrip("/")).is_file(), f"{path} loads {address}"
    for style in site.rglob("*.css"):
        for address in re.findall(r"url\(([^)]*)\)|@import\s+([^;]*)", style.read_text(encoding="utf-8")):
            assert "//" not in "".join(address).split(",")[0].replace("data:", ""), style


def test_every_internal_link_leads_somewhere(pages):
    seen = 0
    for path, page in pages.items():
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for link in page.links:
            address, anchor = urldefrag(link)
            if urlsplit(address).scheme:
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            assert target.is_file(), f"{path} links to {link}"
            if anchor and target in pages:
                assert unquote(anchor) in pages[target].anchors | {"__top"}, f"{path} links to {link}"
            seen += 1
    assert seen > 500


def test_links_of_the_repository_lead_somewhere():
    """The same pages as GitHub shows them."""
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not urlsplit(link).scheme and not link.startswith("#"):
                assert (page.parent / urldefrag(link)[0]).exists(), f"{name(page)} links to {link}"


def test_the_navigation_holds_every_page():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    shown = re.findall(r": ([\w/-]+\.md)$", text, flags=re.MULTILINE)
    assert sorted(shown) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert yaml.safe_load(text)["nav"]


def test_the_tables_of_home_and_readme_are_the_same():
    rows = [
        [line for line in page.read_text(encoding="utf-8").splitlines() if "dense PyTorch" in line and "|" in line]
        for page in (ROOT / "README.md", DOCS / "index.md")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 2


def resolve(path: str) -> object:
    """Return the object that a dotted path names; a name goes before a module that is called like it."""
    parent, _, last = path.rpartition(".")
    if not parent:
        return importlib.import_module(path)
    for holder in (resolve(parent), sys.modules.get(parent)):
        if hasattr(holder, last):
            return getattr(holder, last)
    return importlib.import_module(path)


def defined(module) -> list[str]:
    """Return the names of the public functions, classes and constants that a module without `__all__` defines."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id.isupper():
            names.append(node.target.id)
    return [each for each in names if not each.startswith("_")]


def test_every_public_name_is_in_the_api_once():
    paths = [path for page in (DOCS / "api").glob("*.md") for path in DIRECTIVE.findall(page.read_text())]
    shown = [id(resolve(path)) for path in paths]
    assert len(set(paths)) == len(paths)
    doubled = [path for path, each in zip(paths, shown, strict=True) if shown.count(each) > 1]
    assert doubled == []
    promised = {f"{module.__name__}.{each}" for module in PUBLIC for each in module.__all__}
    promised |= {f"ndsnn.losses.{each}" for each in defined(losses)}
    promised |= {f"ndsnn.surrogates.{each}" for each in defined(surrogates)}
    promised |= {f"ndsnn.errors.{each}" for each in defined(errors) if each[0].isupper()}
    promised |= {f"ndsnn.config.{each}" for each in defined(config) if each.endswith("Config")}
    modules = {f"ndsnn.{each}" for each in ("data", "errors", "losses", "models", "__version__")}
    missing = [path for path in sorted(promised - modules) if id(resolve(path)) not in shown]
    assert missing == []


def test_the_api_is_rendered(site):
    """Each name has its heading, and below it the first line of its own docstring."""
    for page in (DOCS / "api").glob("*.md"):
        text = (site / "api" / f"{page.stem}.html").read_text(encoding="utf-8")
        for path in DIRECTIVE.findall(page.read_text(encoding="utf-8")):
            _, heading, after = text.partition(f'id="{path}"')
            assert heading, path
            found = resolve(path)
            if inspect.isclass(found) or inspect.isfunction(found):
                said = html.unescape(re.sub(r"<[^>]*>", "", after.partition('id="ndsnn.')[0]))
                first = inspect.getdoc(found).partition("\n")[0].replace("`", "").replace("**", "")
                assert plain(first) in plain(said), path


def plain(text: str) -> str:
    """Return a text without white space."""
    return re.sub(r"\s", "", text)


def test_the_tests_that_the_page_on_reliability_names_exist():
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"`(?:[\w/]*/)?(test_\w+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > 30
    for file, function in named:
        assert f"def {function}(" in sources[file] if function else file in sources, f"{file}::{function}"
    for function in re.findall(r"`(test_\w+)`", text):
        assert any(f"def {function}(" in source for source in sources.values()), function
