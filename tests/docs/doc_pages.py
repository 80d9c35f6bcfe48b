"""What the tests of the documentation share: its pages, and the code and commands in them."""

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<language>\w*)\s*$")
PROGRAM = re.compile(r"^(?:ndsnn|make|pip|python)\b")


@dataclass(frozen=True)
class Block:
    """A fenced block of code; `line` is the number of its first line in the page."""

    page: Path
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A line for the shell, as it is printed in the page."""

    page: Path
    line: int
    text: str

    def variants(self) -> list[str]:
        """Return the commands that a synopsis stands for: without optional parts, one for each alternative."""
        words = re.sub(r"\[[^\]]*\]", "", self.text).split(" ")
        return [" ".join(filter(None, choice)) for choice in product(*(word.split("|") for word in words))]


def name(page: Path) -> str:
    """Return the path of a page in the repository."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    return _read(page)[0]


def commands(page: Path) -> list[Command]:
    """Return the shell lines of a page: in `sh` blocks, in blocks without a language, and in indented blocks."""
    found, outside = _read(page)
    lines = [(number, text[4:]) for number, text in outside if text.startswith("    ")]
    for block in found:
        if block.language in ("", "sh"):
            lines += enumerate(block.text.splitlines(), block.line)
    return [
        Command(page, number, re.sub(r"\s+# .*$", "", text).strip())
        for number, text in sorted(lines)
        if PROGRAM.match(text)
    ]


def _read(page: Path) -> tuple[list[Block], list[tuple[int, str]]]:
    found: list[Block] = []
    outside: list[tuple[int, str]] = []
    inside: list[str] | None = None
    begin, language, ticks, indent = 0, "", "", 0
    for number, text in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(text)
        if inside is None and fence:
            inside, begin, language = [], number + 1, fence["language"]
            ticks, indent = fence["ticks"], len(fence["indent"])
        elif inside is not None and fence and fence["ticks"] == ticks and not fence["language"]:
            found.append(Block(page, begin, language, "\n".join(inside) + "\n"))
            inside = None
        elif inside is not None:
            inside.append(text[indent:])
        else:
            outside.append((number, text))
    assert inside is None, f"{name(page)}: the block that begins at line {begin} has no end"
    return found, outside
