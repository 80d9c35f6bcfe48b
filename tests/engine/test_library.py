"""The extension: loaded once, on torch's OpenMP runtime, with a reason where it cannot be loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ndsnn.engine import library
from ndsnn.errors import MissingDependencyError

# A build that was asked for by name must load, or its run would pass by skipping everything.
needs_native = pytest.mark.skipif(
    not library.available() and library.OVERRIDE not in os.environ, reason=library.unavailable_reason()
)

IN_A_NEW_PROCESS = """
import json, re, torch
from ndsnn.engine import library

def runtimes():
    mapped = {line.split()[-1] for line in open("/proc/self/maps")}
    return sorted(file for file in mapped if re.search(r"/lib(gomp|omp|iomp)[^/]*$", file))

before = runtimes()
native = library.load()
threads = []
for count in (3, 1, 2):
    torch.set_num_threads(count)
    threads.append(native.max_threads())
found = str(library.openmp_runtime())
print(json.dumps({"before": before, "after": runtimes(), "found": found, "threads": threads}))
"""


@pytest.fixture
def undecided() -> Iterator[None]:
    """Forget what was loaded, now and afterwards."""
    library._attempt.cache_clear()
    yield
    library._attempt.cache_clear()


@pytest.fixture(scope="module")
def new_process() -> dict[str, list[object]]:
    run = subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@needs_native
@pytest.mark.sanitize
def test_the_module_is_loaded_once_and_is_the_one_asked_for() -> None:
    module = library.load()
    assert library.load() is module
    assert library.available()
    assert library.unavailable_reason() == ""
    file = Path(module.__file__ or "")
    assert file.name.startswith("_native")
    assert file == Path(os.environ.get(library.OVERRIDE, file))


@needs_native
@pytest.mark.sanitize
def test_every_instruction_set_of_this_machine_runs() -> None:
    native = library.load()
    names = native.available_isas()
    assert names[-1] == "portable"
    x = torch.randn(2, 3, 4, 5, 6)
    for isa in names:
        engine = native.Engine(3, isa)
        kind = native.Kind.FLOAT32
        arena = native.Arena(engine.nbytes(2, 4, 5, 6, kind))
        into = engine.map(arena, 0, 2, 4, 5, 6, kind)
        back = torch.zeros_like(x)
        engine.load(x, into)
        engine.unload(into, back)
        assert engine.isa == isa
        assert torch.equal(back, x)


@needs_native
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the extension is linked to a runtime")
def test_torch_and_the_extension_share_one_openmp_runtime(new_process: dict[str, list[object]]) -> None:
    assert len(new_process["before"]) == 1
    assert new_process["after"] == new_process["before"] == [new_process["found"]]


@needs_native
def test_the_extension_uses_as_many_threads_as_torch_is_told(new_process: dict[str, list[object]]) -> None:
    assert new_process["threads"] == [3, 1, 2]


@pytest.mark.usefixtures("undecided")
def test_an_installation_without_the_extension_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.OVERRIDE, raising=False)
    monkeypatch.setattr(library, "MODULE", "ndsnn._left_out")
    assert not library.available()
    assert "NDSNN_NO_NATIVE" in library.unavailable_reason()
    with pytest.raises(MissingDependencyError, match="no native engine"):
        library.load()


@pytest.mark.usefixtures("undecided")
@pytest.mark.parametrize(
    ("name", "why"), [("absent.so", "absent.so"), ("text.so", "text.so"), ("text", "no extension module")]
)
def test_a_file_that_is_no_extension_is_named(
    name: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / name
    if name.startswith("text"):
        file.write_text("not machine code")
    monkeypatch.setenv(library.OVERRIDE, str(file))
    assert not library.available()
    with pytest.raises(MissingDependencyError, match=why) as error:
        library.load()
    assert str(file) in str(error.value)
    assert library.OVERRIDE in str(error.value)
