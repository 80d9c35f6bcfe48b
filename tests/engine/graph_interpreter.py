"""A plan carried out in plain torch with the network's own modules, one node after the other."""

import torch
from torch import nn
from torch.nn import functional

from ndsnn.engine.graph import AvgPool, Flatten, Graph, MaxPool, Neuron, Source
from ndsnn.models.layers import AdaptiveAvgPool2d, Linear, MaxPool2d, ZeroPad
from ndsnn.neurons import lif


def per_step(function, x):
    """Apply a function of [N, ...] to [S, N, ...]."""
    return function(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def run(graph: Graph, net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the value [S, N, C, H, W] of every node."""
    time_steps = x.shape[0] if x.ndim == 5 else graph.time_steps
    values = []

    def term_value(term):
        value = values[term.node]
        if term.synapse is None:
            return value
        layer = net.get_submodule(term.synapse.layer)
        if isinstance(layer, nn.Linear):
            assert value.shape[-2:] == (1, 1)
            value = functional.linear(value.flatten(2), layer.weight, layer.bias)[..., None, None]
        else:
            s = term.synapse
            value = per_step(lambda v: functional.conv2d(v, layer.weight, layer.bias, s.stride, s.padding), value)
        if term.synapse.norm is not None:
            norm = net.get_submodule(term.synapse.norm)
            value = per_step(norm, value[..., 0, 0] if isinstance(norm, nn.BatchNorm1d) else value)
            value = value[..., None, None] if value.ndim == 3 else value
        return value

    for node in graph.nodes:
        if isinstance(node, Source):
            value = x if x.ndim == 5 else x[None].repeat(time_steps if node.repeated else 1, 1, 1, 1, 1)
            values.append(ZeroPad(node.pad_to)(value))
        elif isinstance(node, Neuron):
            terms = [term_value(term) for term in node.terms]
            if terms[0].shape[0] == 1:
                assert len(terms) == 1
                terms = [terms[0].repeat(time_steps, 1, 1, 1, 1)]
            total = terms[0]
            for term in terms[1:]:
                assert term.shape == total.shape
                total = total + term
            spikes = lif(total, None, node.parameters).spikes
            values.append(spikes if node.pool == 1 else MaxPool2d(node.pool)(spikes))
        elif isinstance(node, MaxPool):
            values.append(MaxPool2d(node.side)(values[node.node]))
        elif isinstance(node, AvgPool) and node.output is None:
            values.append(per_step(nn.AvgPool2d(node.side), values[node.node]))
        elif isinstance(node, AvgPool):
            values.append(AdaptiveAvgPool2d(node.output)(values[node.node]))
        elif isinstance(node, Flatten):
            values.append(values[node.node].flatten(2)[..., None, None])
        else:
            values.append(term_value(node.term))
    return values


def logits(graph: Graph, net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return what the plan's readout gives, in the shape in which the network returns it."""
    value = run(graph, net, x)[-1]
    return (
        value[..., 0, 0]
        if isinstance(net.get_submodule(graph.synapses()[-1].layer), Linear | nn.Linear)
        else value
    )
