"""The code that the README and the pages of docs/ show runs as it stands."""

import re
import shlex
import shutil
import subprocess

import pytest
import torch
from doc_pages import PAGES, ROOT, blocks, commands, name
from doc_workspace import DATA, NOT_RUN, ONLY_PARSED, run_command

import ndsnn
from ndsnn.evaluation.sweep import dry_run
from ndsnn.evaluation.sweep.grid import read_grid
from ndsnn.evaluation.sweep.throughput import Throughput

README = ROOT / "README.md"
LANGUAGES = {"", "sh", "python", "c", "yaml"}

of_pages = {
    language: [page for page in PAGES if any(block.language == language for block in blocks(page))]
    for language in LANGUAGES
}
with_commands = [page for page in PAGES if any(command.text not in NOT_RUN for command in commands(page))]


def run_python(page) -> dict:
    """Run the Python of a page in order in one namespace, so that errors show the page's own lines."""
    scope: dict = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, name(page), "exec"), scope)
    return scope


@pytest.mark.parametrize("page", of_pages["python"], ids=name)
def test_python(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    scope = run_python(page)
    if page == README:
        assert ndsnn.sparsity(scope["net"]) == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize("page", with_commands, ids=name)
def test_commands(page, request, tmp_path, monkeypatch):
    """In order, in a directory as the page speaks of; how fast the machine is, a dry run takes as given."""
    shown = commands(page)
    sweeps = any(re.match("ndsnn (sweep|report) ", command.text) for command in shown)
    template = request.getfixturevalue("swept_template" if sweeps else "workspace_template")
    workspace = tmp_path / "workspace"
    shutil.copytree(template, workspace)
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("NDSNN_DATA", str(workspace / DATA))
    monkeypatch.setattr(dry_run, "measure", lambda *_: Throughput(1e-9, 1e-9, "by hand"))
    for command in shown:
        if command.text not in NOT_RUN:
            for variant in command.variants():
                run_command(variant, workspace)
    for block in blocks(page):
        if block.language == "c":
            (workspace / "block.c").write_text(block.text, encoding="utf-8")
            compiler = shutil.which("cc")
            assert compiler, "tests of C need a compiler"
            flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-c", "block.c", "-o", "block.o"]
            subprocess.run([compiler, *flags], check=True)


@pytest.mark.parametrize("page", of_pages["yaml"], ids=name)
def test_grids(page, tmp_path):
    shutil.copy(ROOT / "experiments" / "recipe.yaml", tmp_path)
    for block in blocks(page):
        if block.language == "yaml":
            (tmp_path / "grid.yaml").write_text(block.text, encoding="utf-8")
            assert read_grid(tmp_path / "grid.yaml").cells


def test_nothing_is_left_out():
    """Blocks are of languages that are run, C stands where commands make what it includes, exceptions exist."""
    for page in PAGES:
        assert {block.language for block in blocks(page)} <= LANGUAGES, name(page)
    assert set(of_pages["c"]) <= set(with_commands)
    shown = {command.text for page in PAGES for command in commands(page)}
    assert set(NOT_RUN) | set(ONLY_PARSED) <= shown
    assert {shlex.split(text)[0] for text in shown - set(NOT_RUN)} == {"ndsnn"}


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 200
