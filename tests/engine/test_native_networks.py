"""Whole networks block by block on the native back end: every block gets the spikes of the float64 reference.

One spike that rounding decides otherwise grows into thousands a few layers on, so equality from end to end would
be no test; given the same input, each block has to agree by itself, forward and backward.
"""

import pytest
import torch
from native_blocks import Block, Summand, check_block
from native_gradients import Way, go_back
from native_layers import Connected, random
from native_sides import (
    FORWARD,
    GRADIENT,
    STATISTICS,
    NativeSide,
    ReferenceSide,
    assert_close,
    assert_close_sums,
    largest,
    needs_native,
)
from torch import Tensor, nn

from ndsnn.engine.graph import AvgPool, Flatten, Graph, MaxPool, Neuron, Readout, Source, Term
from ndsnn.engine.lowering import lower
from ndsnn.engine.norms import NormedSynapse, PlainSynapse, normed_by_batch
from ndsnn.engine.ops import InputTerm
from ndsnn.engine.shapes import infer_shapes
from ndsnn.models import resnet19, vgg16
from ndsnn.models.layers import MaxPool2d
from ndsnn.sparse.sparsify import sparsify

pytestmark = needs_native

OVER_MAPS = (0, 1, 3, 4)


class Walk:
    """Goes through a lowered network in float64 and checks each node on the native back end.

    Args:
        net: The network, sparsified.
        images: [N, C, H, W].
        only: The layers whose blocks are checked, None for all.
    """

    def __init__(self, net: nn.Module, images: Tensor, only: set[str] | None = None) -> None:
        self.net = net
        self.graph: Graph = lower(net)
        self.images = images
        self.only = only
        assert self.graph.time_steps is not None
        self.steps, self.samples = self.graph.time_steps, len(images)
        self.shapes = infer_shapes(self.graph, self.steps, *images.shape[1:], events=False)
        self.reference = ReferenceSide(self.steps, self.samples)
        self.values: list[Tensor] = []
        self.checked: list[str] = []

    def run(self) -> list[str]:
        """Check everything; return the paths of the layers that were."""
        for index, node in enumerate(self.graph.nodes):
            if isinstance(node, Source):
                self.values.append(self.images[None].float())
            elif isinstance(node, Neuron):
                self.values.append(self._neuron(index, node))
            elif isinstance(node, Flatten):
                self.values.append(self.values[node.node].flatten(2)[..., None, None])
            elif isinstance(node, MaxPool):
                self.values.append(MaxPool2d(node.side)(self.values[node.node]))
            elif isinstance(node, AvgPool):
                self.values.append(self._average(index, node))
            elif isinstance(node, Readout):
                self._synapse(node.term)
        return self.checked

    def _side(self) -> NativeSide:
        return NativeSide(self.steps, self.samples)

    def _spiking(self, index: int) -> bool:
        return isinstance(self.graph.nodes[index], Neuron | MaxPool)

    def _connected(self, term: Term, stored: bool = False) -> Connected:
        assert term.synapse is not None
        weight = self.net.get_submodule(term.synapse.layer).weight.detach().flatten()
        positions = weight.nonzero().flatten()
        whole = len(positions) == len(weight)
        return Connected(
            term.synapse,
            None if whole else positions,
            weight[positions],
            self.values[term.node],
            self._spiking(term.node),
            stored,
        )

    def _neuron(self, index: int, node: Neuron) -> Tensor:
        """Check the layers and then the neurons behind them; return the spikes of the reference."""
        checked = self.only is None or any(term.synapse and term.synapse.layer in self.only for term in node.terms)
        summands = []
        for number, term in enumerate(node.terms):
            if term.synapse is None:
                summands.append(Summand(self.values[term.node], self._spiking(term.node)))
                continue
            normed = self._synapse(term) if checked else self._normed(term)
            summands.append(Summand(self._connected(term, stored=(index + number) % 2 == 0), affine=normed.affine))
        if checked:
            block = Block(tuple(summands), node.parameters, node.pool, self.steps, self.samples)
            check_block(block, self._side(), seed=index)
        return self._fire(index, node, summands)

    def _fire(self, index: int, node: Neuron, summands: list[Summand]) -> Tensor:
        terms: list[InputTerm] = [summand.on(self.reference) for summand in summands]
        out = self.reference.empty(self.shapes[index])
        fired = self.reference.backend.neuron_forward(terms, node.parameters, node.pool, out)
        assert fired > 0, f"{node.path} is silent: what lies behind it is not tested"
        return out.float()

    def _normed(self, term: Term) -> NormedSynapse | PlainSynapse:
        """Return the norm behind a layer, by the statistics of the reference."""
        assert term.synapse is not None
        sums = self.reference.backend.statistics(self._connected(term).on(self.reference))
        return self._norm(term, sums)

    def _norm(self, term: Term, sums: tuple[Tensor, Tensor]) -> NormedSynapse | PlainSynapse:
        assert term.synapse is not None
        layer = self.net.get_submodule(term.synapse.layer)
        if term.synapse.norm is None:
            return PlainSynapse.of(term.synapse.out_channels, layer.bias)
        shape = self._connected(term).shape
        values = shape.steps * self.samples * shape.height * shape.width
        return normed_by_batch(self.net.get_submodule(term.synapse.norm), layer.bias, *sums, values)

    def _synapse(self, term: Term) -> NormedSynapse | PlainSynapse:
        """Check statistics and gradients of a layer behind its norm."""
        connected = self._connected(term)
        self.checked.append(connected.synapse.layer)
        native = self._side()
        current, truth = connected.on(native), connected.on(self.reference)
        y = self.reference.backend.evaluate(truth)
        assert_close(native.backend.evaluate(current), y, FORWARD, torch.zeros(()))
        sums = self.reference.backend.statistics(truth)
        ours = native.backend.statistics(current)
        assert_close_sums(ours[0], sums[0], STATISTICS, y.abs().sum(OVER_MAPS) + 1e-30)
        assert_close_sums(ours[1], sums[1], STATISTICS, sums[1] + 1e-30)

        normed = self._norm(term, sums)
        grad_x = torch.randn(y.shape, generator=random(len(self.checked)))
        affine = normed.backward(grad_x.double().sum(OVER_MAPS), (grad_x * y).sum(OVER_MAPS)).affine
        zero = torch.zeros(())
        way = Way(accumulate=len(self.checked) % 2 == 0, dense=connected.synapse.in_channels < 64)
        before = torch.randn(connected.source.shape, generator=random(0))
        result = go_back(native, connected, way, grad_x, affine, before)
        expected = go_back(self.reference, connected, way, grad_x, affine, before)
        assert_close(result.values, expected.values, GRADIENT, zero)
        assert_close(result.source, expected.source, GRADIENT, zero)
        assert_close(result.dense, expected.dense, GRADIENT, zero)
        return normed

    def _average(self, index: int, node: AvgPool) -> Tensor:
        results = []
        for side in (self._side(), self.reference):
            out = side.empty(self.shapes[index])
            side.backend.avg_pool(side.spikes(self.values[node.node]), out, node.side)
            results.append(side.backend.unload(out))
        assert largest(results[0] - results[1]) <= FORWARD
        return results[1].float()


def network(make, sparsity: float, width: float) -> nn.Module:
    """Return a network for T = 2 whose norms do something and whose layers all fire."""
    torch.manual_seed(0)
    net = make(time_steps=2, width=width)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.2)
    sparsify(net, sparsity)
    return net


def images(samples: int, size: int = 32) -> Tensor:
    return torch.randn(samples, 3, size, size, generator=random(3))


@pytest.mark.parametrize("sparsity", [0.9, 0.99])
def test_vgg16(sparsity):
    walk = Walk(network(vgg16, sparsity, width=0.25), images(9))
    assert walk.run() == [synapse.layer for synapse in walk.graph.synapses()]


def test_resnet19():
    walk = Walk(network(resnet19, 0.95, width=0.25), images(3))
    assert walk.run() == [synapse.layer for synapse in walk.graph.synapses()]


def test_wide_layers():
    """A few layers of 256 and 512 channels, on small maps."""
    layers = ["features.21", "features.25", "features.41", "classifier"]
    assert Walk(network(vgg16, 0.98, width=1.0), images(3, size=16), set(layers)).run() == layers
