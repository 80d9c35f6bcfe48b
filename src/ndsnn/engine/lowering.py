"""From the module tree to the plan: a symbolic trace, and one pass over its calls that applies their rules."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn

from ndsnn.engine.graph import Graph, Readout, Source, fuse_pools
from ndsnn.engine.leaves import Site, is_foreign_neuron, leaf_class, require_plain
from ndsnn.engine.rules import RULES, Current, Input, Plan, Value, add, flatten
from ndsnn.engine.tracing import SITE, trace
from ndsnn.models.layers import RepeatOverTime
from ndsnn.neurons import LIF

_SUPPORTED = (
    "supported are Conv2d, Linear, a batch norm behind them, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Flatten, "
    "ZeroPad and RepeatOverTime, sums, and ndsnn.LIF as the neuron"
)
_AT_ONE_PLACE = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d, LIF)


def lower(net: nn.Module) -> Graph:
    """Turn a network into the plan that the engine runs.

    Leaves are the layers of `ndsnn.models.layers`, `ndsnn.LIF`, compressed layers, and torch's Conv2d, Linear,
    BatchNorm2d, BatchNorm1d (behind a linear layer), MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Flatten, Identity
    and Dropout(0). Torch's layers mean for all steps what they do to one, with a norm's statistics taken over all.
    All other modules are containers and traced into; of operators, only sums and `flatten` are known there.

    An image [N, C, H, W] and events [T, N, C, H, W] share the plan: whether the part in front of RepeatOverTime
    has one step or T, the input tells.

    Args:
        net: The network; it is neither run nor changed.

    Returns:
        The plan, with paths as in `net.named_modules()`.

    Raises:
        UnsupportedLayerError: A layer, or its place in the network, has no lowering.
        ShapeError: A batch norm has another number of channels than the layer in front of it.
    """
    if leaf_class(net) is not None:
        raise Site("", type(net).__name__).unsupported("it is a single layer", "lower a network of several")
    return fuse_pools(_Lowering(net, trace(net)).run())


class _Lowering:
    """One pass over a trace."""

    def __init__(self, net: nn.Module, traced: fx.Graph) -> None:
        self.net = net
        self.traced = traced
        self.network = Site("", type(net).__name__)
        self.plan = Plan(self.network, self._repeated_steps())
        self.values: dict[fx.Node, Value] = {}
        self.owners: dict[int, str] = {}

    def run(self) -> Graph:
        """Return the plan, with every max-pool as a node of its own."""
        for call in self.traced.nodes:
            if call.op == "placeholder":
                self._take_input(call)
            elif call.op == "output":
                self._take_output(call.args[0])
            else:
                self.values[call] = self._take_call(call, call.meta[SITE])
        return Graph(tuple(self.plan.nodes), self.plan.time_steps)

    def _repeated_steps(self) -> int | None:
        steps: int | None = None
        for call in self.traced.nodes:
            module = self.net.get_submodule(call.target) if call.op == "call_module" else None
            if isinstance(module, RepeatOverTime):
                if steps is not None and steps != module.time_steps:
                    raise call.meta[SITE].unsupported(
                        f"it has time_steps={module.time_steps}, another RepeatOverTime {steps}", "make them equal"
                    )
                steps = module.time_steps
        return steps

    def _take_input(self, call: fx.Node) -> None:
        if not self.values:
            self.values[call] = Input(Source())
        elif call.users:
            raise self.network.unsupported(f"it has a second input {call.target!r}", "let it take one tensor")

    def _take_output(self, result: Any) -> None:
        if not isinstance(result, fx.Node):
            raise self.network.unsupported("it returns something other than one tensor", "return the logits alone")
        value = self.values[result]
        readout = value.terms[0] if isinstance(value, Current) and len(value.terms) == 1 else None
        if not isinstance(value, Current) or readout is None or readout.synapse is None:
            site: Site = result.meta[SITE]
            raise site.unsupported(
                "the network ends here, without a readout", "end it in a conv or linear layer without a neuron"
            )
        if readout.synapse.norm is not None:
            raise self._site(readout.synapse.norm).unsupported(
                "a norm behind the readout is not supported", f"return the output of {readout.synapse.layer!r}"
            )
        if value.once:
            raise self._site(readout.synapse.layer).unsupported(
                "it is the readout, but an image reaches it without steps",
                "put RepeatOverTime in front of a neuron",
            )
        self.plan.append(Readout(readout))

    def _take_call(self, call: fx.Node, site: Site) -> Value:
        if not call.users:
            raise site.unsupported(f"nothing uses what {_described(call)} returns", "remove that call")
        function = None if call.op == "get_attr" else call.target
        if call.op == "call_module":
            value = self._call_layer(call, site, self.net.get_submodule(str(call.target)))
        elif function in (operator.add, torch.add, "add"):
            value = self._add(call, site)
        elif function in (torch.flatten, "flatten"):
            source, start_dim, end_dim = _flatten_arguments(*call.args, **call.kwargs)
            value = flatten(self.plan, site, self.values[source], start_dim, end_dim)
        else:
            raise site.unsupported(
                f"its forward uses {_described(call)}, for which the engine has no lowering", _SUPPORTED
            )
        if isinstance(value, Current) and value.synapses and len(call.users) > 1:
            raise self._site(value.synapses[0].layer).unsupported(
                f"its output is read at {len(call.users)} places",
                "let one neuron read it, and the others that neuron's spikes",
            )
        return value

    def _call_layer(self, call: fx.Node, site: Site, module: nn.Module) -> Value:
        if is_foreign_neuron(module):
            raise site.unsupported(
                "the engine has no lowering for this neuron", "the supported neuron is ndsnn.LIF"
            )
        kind = leaf_class(module)
        if kind is None:
            raise site.unsupported("the engine has no lowering for this layer", _SUPPORTED)
        require_plain(site, module)
        inputs = (*call.args, *call.kwargs.values())
        if len(inputs) != 1 or not isinstance(inputs[0], fx.Node):
            raise site.unsupported(f"it is called with {inputs}", "call it with one tensor")
        if kind in _AT_ONE_PLACE:
            self._claim(site, module)
        return RULES[kind](self.plan, site, module, self.values[inputs[0]])

    def _claim(self, site: Site, module: nn.Module) -> None:
        """Check that a layer and its parameters are used at one place only."""
        if id(module) in self.owners:
            raise site.unsupported("it is called more than once", "make a layer of its own for each place")
        for held in (module, *module.parameters()):
            owner = self.owners.setdefault(id(held), site.path)
            if owner != site.path:
                raise site.unsupported(f"it shares a parameter with {owner!r}", "give each layer its own")

    def _add(self, call: fx.Node, site: Site) -> Value:
        operands = [*call.args, *(call.kwargs[key] for key in ("input", "other") if key in call.kwargs)]
        # The builtin sum() begins with 0.
        summands = [x for x in operands if not (isinstance(x, int | float) and x == 0)]
        layers = [self.values[x] for x in summands if isinstance(x, fx.Node)]
        if len(layers) < len(summands) or call.kwargs.get("alpha", 1) != 1:
            raise site.unsupported("it adds a constant, or with a factor", "add outputs of layers only")
        return add(self.plan, site, layers)

    def _site(self, path: str) -> Site:
        return Site(path, type(self.net.get_submodule(path)).__name__)


def _flatten_arguments(input: Any, start_dim: Any = 0, end_dim: Any = -1) -> tuple[Any, Any, Any]:
    return input, start_dim, end_dim


def _described(call: fx.Node) -> str:
    if call.op == "call_module":
        return "it"
    if call.op == "get_attr":
        return f"the tensor {call.target!r}"
    name = call.target if isinstance(call.target, str) else getattr(call.target, "__name__", str(call.target))
    return f".{call.args[1]}" if name == "getattr" else f"{name}()"
