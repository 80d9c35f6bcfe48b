"""The same bits for any number of threads and run to run; how far instruction sets may differ."""

import pytest
import torch
from native_blocks import check_block
from native_operations import Operation, operations
from native_sides import FORWARD, GRADIENT, ISAS, NativeSide, largest, needs_native
from test_native_neurons import TRICKY as TRICKY_NEURONS

from ndsnn.engine import library

pytestmark = needs_native

SAMPLES, SIZE = 17, (9, 11)
"""More blocks, strips and steps than threads, and a rest of each."""


@pytest.fixture
def threads():
    """Set the number of threads; the former one comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def run(found: dict[str, Operation]) -> dict[str, list[torch.Tensor]]:
    return {name: operation.run() for name, operation in found.items()}


def results(isa: str, whole: bool = False) -> dict[str, list[torch.Tensor]]:
    return run(operations(whole, SAMPLES, SIZE, isa)[1])


def different(one, other) -> list[str]:
    """Return the names of the operations with a bit that differs."""
    assert one.keys() == other.keys()
    return [
        name
        for name in one
        if not all(torch.equal(part, expected) for part, expected in zip(one[name], other[name], strict=True))
    ]


@pytest.mark.parametrize("isa", ISAS)
def test_any_number_of_threads_gives_the_same_bits(threads, isa):
    threads(1)
    _, found = operations(False, SAMPLES, SIZE, isa)
    expected = run(found)
    for number in (2, 3):
        threads(number)
        assert library.load().max_threads() == number
        assert different(run(found), expected) == []


@pytest.mark.parametrize("isa", ISAS)
def test_run_to_run(threads, isa):
    """Once more on the same maps, and on others: nothing depends on what buffers held before."""
    threads(1)
    _, found = operations(False, SAMPLES, SIZE, isa)
    threads(2)
    first = run(found)
    assert different(run(found), first) == []
    threads(1)
    operations(True, 3, (5, 4), isa)[1]["evaluate"].run()
    assert different(results(isa), first) == []


@pytest.mark.parametrize("isa", ISAS[1:])
def test_instruction_sets_differ_by_rounding_alone(isa):
    """On whole numbers all bits are the same; else results differ by the order of sums and fused products.

    Stated tolerances: 1e-6 forward, 1e-5 backward, of the largest value. Behind a threshold they say nothing:
    see `native_blocks` for those operations.
    """
    assert different(results(isa, whole=True), results(ISAS[0], whole=True)) == []
    one, other = results(isa), results(ISAS[0])
    for name in one:
        if name.startswith("neuron"):
            continue
        tolerance = GRADIENT if "backward" in name else FORWARD
        for part, expected in zip(one[name], other[name], strict=True):
            assert largest(part - expected) <= tolerance * largest(expected), name


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", TRICKY_NEURONS)
def test_every_instruction_set_agrees_with_the_reference(case, isa):
    check_block(case.block(), NativeSide(case.steps, case.samples, isa), case.seed)


@pytest.mark.parametrize("isa", ISAS)
def test_keeping_currents_changes_no_bit(isa):
    """memory="store" and "recompute" train the same network."""
    _, found = operations(False, SAMPLES, SIZE, isa)
    assert torch.equal(found["statistics"].run()[0], found["statistics, stored"].run()[0])
    assert torch.equal(found["evaluate"].run()[0], found["statistics, stored"].run()[2])
