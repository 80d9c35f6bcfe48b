"""One lowering rule for each kind of layer, and for a sum.

A traced value is the input of the network, a map that a node hands on, or a current: a sum of terms that no neuron
has integrated yet. A rule takes the value of a layer's input and returns that of its output; nodes are made on the
way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ndsnn.engine.foreign.framework import ForeignDropout, ForeignNeuron, framework_of
from ndsnn.engine.graph import AvgPool, Dropout, Flatten, MaxPool, Neuron, Node, Source, Sum, Synapse, Term
from ndsnn.engine.lowering.leaves import (
    adaptive_output,
    avg_pool_window,
    conv_synapse,
    leaf_class,
    linear_synapse,
    max_pool_window,
    neuron_parameters,
)
from ndsnn.engine.sites import Site
from ndsnn.errors import ShapeError
from ndsnn.models import layers
from ndsnn.neurons import LIF


@dataclass(frozen=True)
class Input:
    """The network's input, before anything but padding and repetition has read it."""

    source: Source


@dataclass(frozen=True)
class Map:
    """What a node hands on.

    Args:
        node: Index of the node.
        spikes: Whether it holds spikes, not floats.
        flat: Whether it has been flattened to features.
        stepped: Whether it has T steps for an image too.
    """

    node: int
    spikes: bool
    flat: bool
    stepped: bool


@dataclass(frozen=True)
class Current:
    """A sum that no neuron has integrated yet.

    Args:
        terms: Its summands.
        flat: Whether they are features.
        stepped: Whether it has T steps for an image too.
        once: Whether a term is computed once per image, so that its steps come from a repetition behind it.
    """

    terms: tuple[Term, ...]
    flat: bool
    stepped: bool
    once: bool

    @property
    def synapses(self) -> tuple[Synapse, ...]:
        """The synapses among the terms."""
        return tuple(term.synapse for term in self.terms if term.synapse is not None)


Value = Input | Map | Current


class Plan:
    """The nodes made so far.

    Args:
        network: The network, for messages.
        time_steps: T of its repetition over time, None if it has none.
        features: Whether a linear layer may read the network's input, which is then features.

    Attributes:
        nodes: In execution order, the source first.
    """

    def __init__(self, network: Site, time_steps: int | None, features: bool = False) -> None:
        self.network = network
        self.time_steps = time_steps
        self.features = features
        self._sums: dict[tuple[Term, ...], Map] = {}
        self.nodes: list[Node] = [Source()]
        self._source: Source | None = None

    def append(self, node: Node) -> int:
        """Add a node; return its index."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def map_of(self, site: Site, value: Value) -> Map:
        """Return the map that the layer at `site` reads; raises UnsupportedLayerError if it is a current.

        A sum of maps becomes one where it is first read.
        """
        if isinstance(value, Current) and not value.synapses:
            if value.terms not in self._sums:
                node = self.append(Sum(site.path, tuple(term.node for term in value.terms)))
                self._sums[value.terms] = Map(node, spikes=False, flat=value.flat, stepped=value.stepped)
            return self._sums[value.terms]
        if isinstance(value, Current):
            made_by = " + ".join(repr(synapse.layer) for synapse in value.synapses)
            raise site.unsupported(
                f"it reads the output of {made_by}, which no neuron has turned into spikes",
                "put ndsnn.LIF between them, or return that output if it is the readout",
            )
        return self._placed(value)

    def current_of(self, value: Value) -> Current:
        """Return the summands of what a neuron or a sum reads."""
        if isinstance(value, Current):
            known = self._sums.get(value.terms)
            return value if known is None else _through(known, None)
        source = self._placed(value)
        return _through(source, None)

    def _placed(self, value: Input | Map) -> Map:
        if isinstance(value, Map):
            return value
        if self._source not in (None, value.source):
            raise self.network.unsupported(
                "its input is read in two ways, with and without RepeatOverTime or ZeroPad, "
                "or as maps and as features",
                "let all layers read it behind the same ones",
            )
        self._source = self.nodes[0] = value.source
        stepped = value.source.repeated or self.time_steps is None
        return Map(0, spikes=False, flat=value.source.features, stepped=stepped)


def add(plan: Plan, site: Site, values: Sequence[Value]) -> Value:
    """Sum values.

    Raises:
        UnsupportedLayerError: Not all are maps or all features, one is computed once per image, or the output of a
            layer is added to itself.
    """
    if len(values) == 1:
        return values[0]
    currents = [plan.current_of(value) for value in values]
    names = [synapse.layer for current in currents for synapse in current.synapses]
    if len(set(names)) < len(names):
        raise site.unsupported(f"it adds the output of {names[0]!r} to itself", "add outputs of different layers")
    if len({current.flat for current in currents}) > 1:
        raise site.unsupported("it adds features to a map", "flatten both")
    if any(current.once for current in currents):
        raise site.unsupported(
            "it adds something that is computed once per image, in front of RepeatOverTime",
            "put RepeatOverTime directly on the network's input",
        )
    return replace(currents[0], terms=tuple(term for current in currents for term in current.terms))


def flatten(plan: Plan, site: Site, value: Value, start_dim: Any = -3, end_dim: Any = -1) -> Map:
    """Flatten [C, H, W], given by dimensions counted from the end, on one step [N, C, H, W], or with T in front.

    Raises:
        UnsupportedLayerError: The dimensions are others, or the input is a current or flat already.
    """
    source = _unflattened(plan, site, value)
    spans = [(-3, -1), (1, -1), (1, 3)] + [(2, -1), (2, 4)] * source.stepped
    site.require(
        (start_dim, end_dim) in spans,
        f"flattening dimensions {start_dim} to {end_dim}",
        "flatten channels, height and width, as ndsnn.models.layers.Flatten does",
    )
    return replace(source, node=plan.append(Flatten(site.path, source.node)), flat=True)


def _through(source: Map, synapse: Synapse | None) -> Current:
    return Current((Term(source.node, synapse),), source.flat, source.stepped, once=not source.stepped)


def _unflattened(plan: Plan, site: Site, value: Value) -> Map:
    source = plan.map_of(site, value)
    site.require(not source.flat, "this layer behind a flattening", "put it in front of the flattening")
    return source


def _conv(plan: Plan, site: Site, module: Any, value: Value) -> Value:
    return _through(_unflattened(plan, site, value), conv_synapse(site, module))


def _linear(plan: Plan, site: Site, module: Any, value: Value) -> Value:
    if isinstance(value, Input) and plan.features:
        value = Input(replace(value.source, features=True))
    source = plan.map_of(site, value)
    site.require(source.flat, "a linear layer on a map that is not flattened", "put Flatten in front of it")
    return _through(source, linear_synapse(site, module))


def _norm(plan: Plan, site: Site, module: Any, value: Value) -> Value:
    current = value if isinstance(value, Current) else None
    synapse = current.terms[0].synapse if current and len(current.terms) == 1 else None
    if current is None or synapse is None or synapse.norm is not None:
        raise site.unsupported("this norm is not directly behind a conv or linear layer", "put it there")
    site.require(
        not (current.once and current.stepped), "a norm behind RepeatOverTime", "put it in front of RepeatOverTime"
    )
    wanted, behind = (nn.BatchNorm1d, "linear") if current.flat else (nn.BatchNorm2d, "conv")
    site.require(
        leaf_class(module) is wanted, f"this norm behind a {behind} layer", f"use {wanted.__name__} there"
    )
    if module.num_features != synapse.out_channels:
        raise ShapeError(
            f"{site} expects {module.num_features} channels or features, got {synapse.out_channels} "
            f"from {synapse.layer!r}"
        )
    return replace(current, terms=(replace(current.terms[0], synapse=replace(synapse, norm=site.path)),))


def _repeat(plan: Plan, site: Site, module: layers.RepeatOverTime, value: Value) -> Value:
    if isinstance(value, Input):
        return Input(replace(value.source, repeated=True))
    site.require(not value.flat, "RepeatOverTime behind a flattening", "put it in front of the flattening")
    if isinstance(value, Current):
        return replace(value, stepped=True)
    site.require(
        value.stepped,
        "RepeatOverTime at this place",
        "put it directly on the network's input, or between the first conv, with its norm, and its neuron",
    )
    return value


def repeat(site: Site, value: Value) -> Value:
    """Repeat what is computed of an input that is the same at every step, in front of a neuron.

    Raises:
        UnsupportedLayerError: It is no current.
    """
    if isinstance(value, Input):
        return Input(replace(value.source, repeated=True))
    site.require(
        isinstance(value, Current) and value.once,
        "this use of an input that is the same at every step",
        "let a conv or linear layer read it",
    )
    return replace(value, stepped=True)


def _pad(plan: Plan, site: Site, module: layers.ZeroPad, value: Value) -> Value:
    if not isinstance(value, Input) or value.source.pad_to:
        raise site.unsupported("ZeroPad is supported on the network's input only, and once", "put it there")
    return Input(replace(value.source, pad_to=max(module.size, 0)))


def _neuron(plan: Plan, site: Site, module: nn.Module, value: Value) -> Value:
    current = plan.current_of(value)
    site.require(
        current.stepped,
        "a neuron whose input has no steps when the network is given an image",
        "put RepeatOverTime in front of it",
    )
    framework = framework_of(module)
    learned = framework is not None and framework.learned(module) is not None
    site.require(
        not (learned and current.once),
        "a leak that is a parameter, in front of RepeatOverTime",
        "use a constant one",
    )
    node = plan.append(Neuron(site.path, neuron_parameters(site, module), current.terms, learned=learned))
    return Map(node, spikes=True, flat=current.flat, stepped=True)


def _max_pool(plan: Plan, site: Site, module: nn.MaxPool2d, value: Value) -> Value:
    side, whole_windows = max_pool_window(site, module)
    source = _unflattened(plan, site, value)
    site.require(source.spikes, "a max-pool of something other than spikes", "put it behind ndsnn.LIF")
    if side == 1:
        return source
    return replace(source, node=plan.append(MaxPool(site.path, source.node, side, whole_windows)))


def _avg_pool(plan: Plan, site: Site, module: nn.AvgPool2d, value: Value) -> Value:
    side = avg_pool_window(site, module)
    source = _unflattened(plan, site, value)
    return replace(source, node=plan.append(AvgPool(site.path, source.node, None, side)), spikes=False)


def _adaptive_pool(plan: Plan, site: Site, module: nn.AdaptiveAvgPool2d, value: Value) -> Value:
    output = adaptive_output(site, module)
    source = _unflattened(plan, site, value)
    return replace(source, node=plan.append(AvgPool(site.path, source.node, output)), spikes=False)


def _torch_flatten(plan: Plan, site: Site, module: nn.Flatten, value: Value) -> Value:
    return flatten(plan, site, value, module.start_dim, module.end_dim)


def _flatten(plan: Plan, site: Site, module: layers.Flatten, value: Value) -> Value:
    return flatten(plan, site, value)


def _identity(plan: Plan, site: Site, module: nn.Identity, value: Value) -> Value:
    return value


def _dropout(plan: Plan, site: Site, module: nn.Dropout, value: Value) -> Value:
    site.require(module.p == 0, f"p={module.p}", "use p=0 or remove it")
    return value


def _kept_dropout(plan: Plan, site: Site, module: nn.Module, value: Value) -> Value:
    source = plan.map_of(site, value)
    return replace(source, node=plan.append(Dropout(site.path, source.node, source.flat)), spikes=False)


RULES: dict[type[nn.Module], Callable[[Plan, Site, Any, Value], Value]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm2d: _norm,
    nn.BatchNorm1d: _norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.Flatten: _torch_flatten,
    nn.Identity: _identity,
    nn.Dropout: _dropout,
    layers.Flatten: _flatten,
    layers.ZeroPad: _pad,
    layers.RepeatOverTime: _repeat,
    LIF: _neuron,
    ForeignNeuron: _neuron,
    ForeignDropout: _kept_dropout,
}
"""The rule of each class of `LEAVES`."""
