"""The gradient of a leak that is trained (the parametric LIF neuron), of what the engine's backward pass leaves.

With k = 1/τ the leak, v_rest = v_reset or 0, and ε[t] = ∂L/∂h[t] of `ndsnn.lif`,

    ∂h[t]/∂k = x[t] − (v[t−1] − v_rest)   decay_input,      −(v[t−1] − v_rest)   without
    ∂L/∂k    = Σ_t ε[t]·∂h[t]/∂k,         ε[t] = ∂L/∂x[t] / κ with κ = k or 1

where v[t−1] is held fixed: its own dependence on k is in ε[t−1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ndsnn.engine.foreign.framework import framework_of
from ndsnn.engine.graph import Graph, Neuron
from ndsnn.engine.ops import Backend, InputTerm
from ndsnn.engine.sites import Site
from ndsnn.neurons import LIFParameters, lif


@dataclass(frozen=True)
class Leak:
    """A neuron whose leak is read anew at every pass.

    Args:
        neuron: With its present τ.
        parameter: The parameter that the leak is computed of.
        slope: ∂k/∂parameter.
    """

    neuron: LIFParameters
    parameter: nn.Parameter
    slope: float

    def gradient(self, by_leak: float) -> Tensor:
        """Return ∂L/∂parameter for ∂L/∂k."""
        return torch.full_like(self.parameter, by_leak * self.slope)


def leaks_of(graph: Graph, net: nn.Module) -> dict[int, Leak]:
    """Return the leaks of a network that are parameters, by the index of the neuron in the graph."""
    leaks = {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node, Neuron) and node.learned:
            module = net.get_submodule(node.path)
            framework = framework_of(module)
            assert framework is not None
            learned = framework.learned(module)
            assert learned is not None
            neuron = framework.neuron(Site(node.path, type(module).__name__), module)
            leaks[index] = Leak(neuron, *learned)
    return leaks


def gradient_by_leak(backend: Backend, terms: Sequence[InputTerm], neuron: LIFParameters, grad_x: Tensor) -> float:
    """Return ∂L/∂k.

    Args:
        backend: Holds the terms.
        terms: What the neuron integrates.
        neuron: The neuron.
        grad_x: ∂L/∂x [T, N, C, H, W].
    """
    x = _input(backend, terms[0])
    for term in terms[1:]:
        x = x + _input(backend, term)
    rest = neuron.v_reset or 0.0
    with torch.no_grad():
        after = lif(x, None, neuron).potentials
    before = torch.cat([torch.full_like(after[:1], rest), after[:-1]])
    by_leak = rest - before
    if neuron.decay_input:
        by_leak += x
    scale = neuron.tau if neuron.decay_input else 1.0
    return scale * float((grad_x.double() * by_leak).sum())


def _input(backend: Backend, term: InputTerm) -> Tensor:
    if term.affine is None:
        return backend.unload(term.value)
    y = backend.evaluate(term.value)
    scale, shift = (vector.to(y.dtype).view(-1, 1, 1) for vector in (term.affine.scale, term.affine.shift))
    return y * scale + shift
