"""What takes seconds is made once for all tests of the documentation: the site, and the runs in its pages."""

import shutil
import socket

import pytest
from doc_pages import ROOT
from doc_workspace import sweep, write_workspace

from ndsnn.data import SOURCES
from ndsnn.sparse.methods import methods


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch):
    """Let the settings alone choose the engine, and take back what a page registers."""
    monkeypatch.delenv("NDSNN_BACKEND", raising=False)
    monkeypatch.delenv("NDSNN_DATA", raising=False)
    for registry in (SOURCES, methods):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


@pytest.fixture(scope="session")
def workspace_template(tmp_path_factory):
    """A directory with the runs and grids that pages speak of; tests work on copies."""
    place = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NDSNN_BACKEND", raising=False)
        write_workspace(place)
    return place


@pytest.fixture(scope="session")
def swept_template(workspace_template, tmp_path_factory):
    """The same after the sweep of the README, whose cell needs a process of its own; a second sweep skips it."""
    place = tmp_path_factory.mktemp("swept") / "workspace"
    shutil.copytree(workspace_template, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("NDSNN_BACKEND", raising=False)
        patch.chdir(place)
        sweep(place)
    return place


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The documentation site, built strictly and without a network."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    def no_network(*_):
        raise AssertionError("building the site must not need a network")

    place = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.setattr(socket.socket, "connect", no_network)
        patch.chdir(ROOT)
        build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(place)))
    return place
