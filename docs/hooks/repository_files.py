"""Pages for the files outside docs/ that pages link to, so that a link works on GitHub and in the site alike.

A relative link out of docs/, such as `../examples/read_safetensors.py`, leads in the site to a page that shows the
file. A page that links to a folder, or to a file that is not there, fails a strict build.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"\]\(((?:\.\./)+)([\w./-]+)(#[\w-]+)?\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".c": "c", ".h": "c", ".toml": "toml"}
FOLDER = "repository"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file of the repository that a page links to."""
    docs = Path(config.docs_dir)
    for page in list(files.documentation_pages()):
        for target in _targets(page, docs):
            if target.is_file() and _uri(target, docs) not in files.src_uris:
                files.append(File.generated(config, _uri(target, docs), content=_shown(target, docs)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs/ to the pages that show the files."""
    docs = Path(config.docs_dir)
    here = docs / page.file.src_uri

    def lead(match: re.Match[str]) -> str:
        target = (here.parent / match[1] / match[2]).resolve()
        if docs in target.parents or not target.is_file():
            return match[0]
        return f"]({'../' * page.file.src_uri.count('/')}{_uri(target, docs)}{match[3] or ''})"

    return LINK.sub(lead, markdown)


def _targets(page: File, docs: Path) -> set[Path]:
    """Return the paths outside docs/ that a page links to."""
    here = docs / page.src_uri
    found = {(here.parent / ups / path).resolve() for ups, path, _ in LINK.findall(page.content_string)}
    return {path for path in found if docs not in path.parents}


def _uri(target: Path, docs: Path) -> str:
    """Return the place of a file's page in the site."""
    return f"{FOLDER}/{target.relative_to(docs.parent)}.md"


def _shown(target: Path, docs: Path) -> str:
    """Return a page that shows a file."""
    text = target.read_text(encoding="utf-8").rstrip()
    return f"# {target.relative_to(docs.parent)}\n\n````{LANGUAGES.get(target.suffix, 'text')}\n{text}\n````\n"
