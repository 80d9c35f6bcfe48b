"""What the operations of the native back end write, and what they leave alone."""

import pytest
import torch
from native_operations import operations
from native_sides import ISAS, NativeSide, needs_native
from torch import Tensor

pytestmark = needs_native

SAMPLES = 11
"""No multiple of any number of lanes."""


@pytest.mark.sanitize
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [(3, 5), (6, 7)])
def test_operations_write_their_output_and_nothing_else(size, isa):
    """The rest of the arena, other maps and the gaps between them, keeps every bit."""
    side, all_operations = operations(False, SAMPLES, size, isa)
    wrong, before = [], side.memory(0, side.end)
    for name, operation in all_operations.items():
        operation.run()
        after = side.memory(0, side.end)
        changed = (after != before).any(1)
        for made in operation.written:
            begin, nbytes = side.place(made)
            changed[begin // (4 * side.lanes) : (begin + nbytes) // (4 * side.lanes)] = False
        if changed.any():
            wrong.append(name)
        before = after
    assert wrong == []


@pytest.mark.parametrize("isa", ISAS)
def test_lanes_without_a_sample_hold_no_spike_and_no_gradient(isa):
    """Counts, sums and gradients of weights take whole vectors and rely on it."""
    side, all_operations = operations(False, SAMPLES, (5, 6), isa)
    wrong = []
    for name, operation in all_operations.items():
        operation.run()
        if operation.clean and any(_idle_lanes(side, made).any() for made in operation.written):
            wrong.append(name)
    assert wrong == []


def _idle_lanes(side: NativeSide, made) -> Tensor:
    """Return what lies in the lanes behind the last sample of a map."""
    steps, channels, height, width = made.shape
    blocks = -(-SAMPLES // side.lanes)
    used = SAMPLES - (blocks - 1) * side.lanes
    places = steps * blocks * channels * height * width
    memory = side.memory(*side.place(made)).flatten()
    if made.kind.name == "SPIKES":
        words = memory.view(torch.uint8 if side.lanes == 8 else torch.uint16).int()[:places]
        return words.view(steps, blocks, -1)[:, -1] >> used
    vectors = memory[: places * side.lanes].view(torch.float32)
    return vectors.view(steps, blocks, -1, side.lanes)[:, -1, :, used:]
