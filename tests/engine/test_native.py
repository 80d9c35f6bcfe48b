"""That the native back end is there, and which kernels it takes."""

import os

import pytest
from native_sides import ISAS, needs_native

from ndsnn.engine import library, native


@pytest.mark.skipif(not os.environ.get("CI"), reason="only CI promises that the extension has been built")
def test_it_is_available_on_ci():
    """All other tests of the native back end skip where it is not."""
    assert native.available(), native.unavailable_reason()


@needs_native
def test_best_instruction_set_is_taken(monkeypatch):
    monkeypatch.delenv("NDSNN_ISA", raising=False)
    assert native.instruction_set() == ISAS[0]
    assert ISAS[-1] == "portable"


@needs_native
@pytest.mark.parametrize("isa", ISAS)
def test_lanes(isa):
    assert library.load().Engine(1, isa).lanes == (16 if isa == "avx512" else 8)
