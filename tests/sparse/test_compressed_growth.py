"""Growth from a gradient that streams by: the same choice as from all of it, and nothing of dense size."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ndsnn.errors import SparsityError
from ndsnn.sparse import CompressedConv2d, compress
from ndsnn.sparse.bits import pack_mask, pack_positions, unpack_mask, unpack_positions
from ndsnn.sparse.growth import Candidates, GrowthStream, best_without_gradient
from ndsnn.sparse.methods import methods
from ndsnn.sparse.selection import largest
from ndsnn.sparse.sparsify import sparsify
from ndsnn.sparse.storage import pack_network, unpack_network
from ndsnn.training.checkpoint import pack_training


@given(
    scores=st.lists(st.integers(-3, 3), min_size=1, max_size=60),
    limit=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
@settings(max_examples=300, deadline=None)
def test_candidates_are_what_one_selection_would_take(scores, limit, cuts):
    """Few levels, so that ties cross the borders of pieces."""
    values = torch.tensor(scores, dtype=torch.float32)
    places = 3 * torch.arange(len(scores)) + 1
    candidates = Candidates(limit, values.device)
    held = []
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), len(scores)], strict=True):
        candidates.offer(places[first:last], values[first:last])
        held.append(candidates._held)
    positions, kept = candidates.best()
    expected = largest(values, min(limit, len(scores)))
    assert torch.equal(positions, places[expected])
    assert torch.equal(kept, values[expected])
    assert max(held) <= limit + limit // 2


def layer_of(shape, density, seed=0):
    source = torch.Generator().manual_seed(seed)
    positions = torch.nonzero(torch.rand(shape, generator=source).flatten() < density).flatten()
    values = torch.randn(len(positions), generator=source)
    return CompressedConv2d(shape[1], shape[0], shape[2:], values, positions)


@given(
    seed=st.integers(0, 10**6),
    density=st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]),
    limit=st.integers(0, 200),
    channels=st.integers(1, 8),
    levels=st.sampled_from([None, 1, 0]),
)
@settings(max_examples=150, deadline=None)
def test_a_stream_keeps_the_best_inactive_places(seed, density, limit, channels, levels):
    layer = layer_of((8, 3, 3, 2), density, seed)
    gradient = torch.randn(layer.dense_shape, generator=torch.Generator().manual_seed(seed + 1))
    if levels is not None:
        gradient = (gradient * levels).round()
    stream = GrowthStream("layer", layer, limit, lambda positions, g: g.abs())
    for first in range(0, 8, channels):
        assert not stream.complete
        stream(first, gradient[first : first + channels])
    assert stream.complete
    assert torch.equal(stream.alive_gradient, gradient[layer.mask()])
    inactive = torch.nonzero(~layer.mask().flatten()).flatten()
    scores = gradient.flatten()[inactive].abs()
    chosen = largest(scores, min(limit, len(inactive)))
    positions, kept = stream.best()
    assert torch.equal(positions, inactive[chosen])
    assert torch.equal(kept, scores[chosen])


@pytest.mark.parametrize("density", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("shape", [(8, 3, 3, 2), (20, 2, 1, 1), (1, 50, 1, 1)])
def test_blocks_without_gradient(shape, density):
    layer = layer_of(shape, density)
    inactive = torch.nonzero(~layer.mask().flatten()).flatten()

    def score(positions, gradient):
        assert gradient is None
        return (positions * 37 % 11).float()

    count = len(inactive) // 2
    positions, scores = best_without_gradient(layer, count, score)
    chosen = largest(score(inactive, None), count)
    assert torch.equal(positions, inactive[chosen])
    assert torch.equal(scores, score(inactive[chosen], None))


@pytest.mark.parametrize(
    ("first", "piece"),
    [(1, (2, 3, 3, 2)), (0, (9, 3, 3, 2)), (0, (2, 3, 3, 1)), (-1, (2, 3, 3, 2))],
    ids=["gap", "too many", "other shape", "negative"],
)
def test_pieces_out_of_order_are_refused(first, piece):
    stream = GrowthStream("layer", layer_of((8, 3, 3, 2), 0.5), 5, lambda positions, g: g.abs())
    with pytest.raises(SparsityError, match="layer 'layer' was handed a gradient of shape"):
        stream(first, torch.zeros(piece))


# Memory ------------------------------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation makes; views and what is changed in place are not made."""

    def __init__(self):
        super().__init__()
        self.places = self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:
                self.places = max(self.places, tensor.numel())
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


SHAPE = (64, 96, 3, 3)
SIZE = 64 * 96 * 9


@pytest.mark.parametrize("name", ["ndsnn", "rigl", "dst-ee", "granet", "set", "gmp"])
@pytest.mark.parametrize("regrow", [False, True])
def test_a_streamed_round_makes_no_tensor_of_dense_size(name, regrow):
    """No operation makes half as many elements as the dense weight has, nor half its bytes of float32."""
    net = nn.Sequential(nn.Conv2d(96, 64, 3, bias=False))
    sparsify(net, 0.9 if name in ("rigl", "dst-ee", "set") else 0.85)
    compress(net)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    settings = {} if name == "gmp" else {"regrow_dropped": regrow}
    method = methods[name](net, optimizer, 0.9, 8, update_every=2, **settings)
    pieces = [torch.randn(1, *SHAPE[1:]) for _ in range(SHAPE[0])]
    for _ in range(2):
        before = net[0].version
        with LargestTensor() as seen:
            sink = net[0].dense_gradient_sink()
            for channel, piece in enumerate(pieces if sink else []):
                sink(channel, piece)
            net[0].weight.grad = torch.zeros(net[0].nnz)
            optimizer.step()
            method.step()
    assert net[0].version > before
    assert 0 < seen.places < SIZE // 2
    assert seen.bytes < 4 * SIZE // 2
    with LargestTensor() as seen:
        method.masks()
    assert seen.places == SIZE


def test_files_and_checkpoints_make_no_dense_tensor():
    net = nn.Sequential(nn.Conv2d(96, 64, 3, bias=False))
    compress(sparsify(net, 0.98))
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    method = methods["rigl"](net, optimizer, 0.98, 8, update_every=2)
    net[0].weight.grad = torch.zeros(net[0].nnz)
    optimizer.step()
    with LargestTensor() as seen:
        unpack_network(net, *pack_network(net))
        pack_training(net, optimizer, method)
    assert 0 < seen.places < SIZE // 4


# Bits --------------------------------------------------------------------------------------------------------


@given(shape=st.lists(st.integers(0, 9), min_size=1, max_size=3), density=st.floats(0, 1), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_bits_from_positions_are_those_from_the_mask(shape, density, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    positions = torch.nonzero(mask.flatten()).flatten()
    bits = pack_positions(positions.to(torch.int32), mask.numel())
    assert torch.equal(bits, pack_mask(mask))
    assert torch.equal(unpack_positions(bits, shape), positions)
    assert torch.equal(unpack_mask(bits, shape), mask)


def test_more_bits_than_a_block():
    positions = torch.tensor([0, 524287, 524288, 1048575, 1048577])
    bits = pack_positions(positions, 1048580)
    assert int(bits.ne(0).sum()) == 5
    assert torch.equal(unpack_positions(bits, (1048580,)), positions)
