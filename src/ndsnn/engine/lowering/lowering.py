"""From the module tree to the plan: a symbolic trace, and one pass over its calls that applies their rules."""

from __future__ import annotations

import copy
import operator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from ndsnn.engine.foreign.framework import ForeignDropout, ForeignNeuron, framework_of, frameworks_in
from ndsnn.engine.foreign.states import ForeignModules, live_states, require_rest, stateful_modules
from ndsnn.engine.graph import Graph, Readout, Source, fuse_pools
from ndsnn.engine.lowering.leaves import is_foreign_neuron, leaf_class, require_plain
from ndsnn.engine.lowering.parts import Part, Split, split
from ndsnn.engine.lowering.rolling import holds_loop, roll
from ndsnn.engine.lowering.rules import RULES, Current, Input, Map, Plan, Value, add, flatten, repeat
from ndsnn.engine.lowering.steps import repeat_steps
from ndsnn.engine.lowering.tracing import ADDITIONS, FLATTENINGS, FOLDED, SITE, described, trace
from ndsnn.engine.sites import Site
from ndsnn.errors import UnsupportedLayerError
from ndsnn.models.layers import RepeatOverTime
from ndsnn.neurons import LIF

_SUPPORTED = (
    "supported are Conv2d, Linear, a batch norm behind them, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Flatten, "
    "ZeroPad and RepeatOverTime, sums, and ndsnn.LIF as the neuron"
)
_AT_ONE_PLACE = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm2d,
    nn.BatchNorm1d,
    LIF,
    ForeignNeuron,
    ForeignDropout,
)


@dataclass(frozen=True)
class Lowered:
    """A network, ready to run.

    Args:
        graph: What the engine runs.
        foreign: Modules of other frameworks in it.
        head: What runs in front of the graph, or None.
        tail: What runs behind it, or None.
        images_only: Whether the network reads the same input at every step, so that it takes none with steps.
    """

    graph: Graph
    foreign: ForeignModules
    head: Part | None = None
    tail: Part | None = None
    images_only: bool = False


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
        UnsupportedLayerError: A layer, or its place in the network, has no lowering; or a network of another
            framework does something in front of its first layer or behind its readout, which is in no plan.
        ShapeError: A batch norm has another number of channels than the layer in front of it.
        StateError: A neuron of another framework is not at rest.
    """
    lowered = lower_network(net)
    if lowered.head is not None or lowered.tail is not None:
        where = "behind its readout" if lowered.head is None else "in front of its first layer"
        raise Site("", type(net).__name__).unsupported(
            f"its forward computes something {where}, which is no part of a plan", "lower what is inside"
        )
    return lowered.graph


def lower_network(net: nn.Module) -> Lowered:
    """Turn a network into what `accelerate` runs: as `lower`, with the calls around the plan.

    A network that holds modules of another framework may compute something of its input before the first layer
    reads it, and of its readout's output, neurons included: these are run by the framework itself.
    """
    if leaf_class(net) is not None:
        raise Site("", type(net).__name__).unsupported("it is a single layer", "lower a network of several")
    if not frameworks_in(net):
        return Lowered(fuse_pools(_Lowering(net, trace(net)).run()), ForeignModules())
    return _lower_foreign(net)


def _lower_foreign(net: nn.Module) -> Lowered:
    for path, module in net.named_modules():
        framework = framework_of(module)
        if framework is not None and framework.refusal:
            raise Site(path, type(module).__name__).unsupported(
                framework.refusal, "sparsify and all training methods work on the network as it is"
            )
    # Its forward may reset states and make buffers while it is traced; weights are shared.
    tensors = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    traced_net = copy.deepcopy(net, tensors | live_states(net))
    for _, framework, module in stateful_modules(traced_net):
        framework.spend(module)
    with ExitStack() as surroundings:
        for framework in frameworks_in(traced_net):
            surroundings.enter_context(framework.tracing(traced_net))
        traced = trace(traced_net)
    resetting = {path for path, framework, module in stateful_modules(traced_net) if framework.at_rest(module)}
    single_step_norms: tuple[str, ...] = ()
    if holds_loop(net):
        rolled = roll(net, traced, traced_net)
        traced, single_step_norms = rolled.graph, rolled.norms
        resetting |= rolled.resetting
    require_rest(net, resetting)

    def is_synapse(call: fx.Node) -> bool:
        module = net.get_submodule(str(call.target)) if call.op == "call_module" else None
        return module is not None and leaf_class(module) in (nn.Conv2d, nn.Linear)

    parts = split(traced, traced_net, is_synapse)
    graph = fuse_pools(_Lowering(net, traced, parts).run())
    in_graph = {synapse.norm for synapse in graph.synapses()}
    norms = tuple(path for path in single_step_norms if path in in_graph)
    foreign = ForeignModules.of(net, graph, frozenset(resetting), norms)
    images_only = any(call.target is repeat_steps for call in traced.nodes)
    return Lowered(graph, foreign, parts.head, parts.tail, images_only)


class _Lowering:
    """One pass over a trace."""

    def __init__(self, net: nn.Module, traced: fx.Graph, parts: Split | None = None) -> None:
        self.net = net
        self.traced = traced
        self.parts = parts
        # The layers of the frameworks in it get all steps at once.
        self.multi_step = parts is not None and not holds_loop(net)
        self.network = Site("", type(net).__name__)
        self.plan = Plan(self.network, self._repeated_steps(), features=parts is not None)
        self.values: dict[fx.Node, Value] = {}
        self.owners: dict[int, str] = {}

    def run(self) -> Graph:
        """Return the plan, with every max-pool as a node of its own."""
        for call in self.traced.nodes:
            if self.parts is not None and call in self.parts.outside:
                if call == self.parts.entry:
                    self.values[call] = Input(Source())
            elif call.op == "placeholder":
                self._take_input(call)
            elif call.op == "output":
                readout = None if self.parts is None else self.parts.readout
                self._take_output(call.args[0] if readout is None else readout)
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
            elif call.target is repeat_steps:
                steps = call.args[1]
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
            raise site.unsupported(f"nothing uses what {described(call)} returns", "remove that call")
        function = None if call.op == "get_attr" else call.target
        if call.op == "call_module":
            value = self._call_layer(call, site, self.net.get_submodule(str(call.target)))
        elif function in ADDITIONS:
            value = self._add(call, site)
        elif function in FLATTENINGS:
            source, start_dim, end_dim = _flatten_arguments(*call.args, **call.kwargs)
            self._check_flattening(call, site, start_dim)
            value = flatten(self.plan, site, self.values[source], start_dim, end_dim)
        elif function is repeat_steps:
            value = repeat(site, self.values[call.all_input_nodes[0]])
        elif function is operator.getitem and call.args[0] in self.values:
            value = self._take_spikes(call, site)
        else:
            raise self._no_lowering(site, call)
        last = self.parts is not None and call is self.parts.readout
        if isinstance(value, Current) and value.synapses and len(call.users) > 1 and not last:
            raise self._site(value.synapses[0].layer).unsupported(
                f"its output is read at {len(call.users)} places",
                "let one neuron read it, and the others that neuron's spikes",
            )
        return value

    def _call_layer(self, call: fx.Node, site: Site, module: nn.Module) -> Value:
        if is_foreign_neuron(module):
            framework = framework_of(module)
            supported = ["ndsnn.LIF"] + ([] if framework is None else framework.neuron_names())
            raise site.unsupported(
                "the engine has no lowering for this neuron", f"supported neurons are {', '.join(supported)}"
            )
        kind = leaf_class(module)
        if kind is None:
            raise site.unsupported("the engine has no lowering for this layer", _SUPPORTED)
        require_plain(site, module, bool(call.meta.get(FOLDED)))
        inputs = (*call.args, *call.kwargs.values())
        if len(inputs) != 1 or not isinstance(inputs[0], fx.Node):
            raise site.unsupported(f"it is called with {inputs}", "call it with one tensor")
        if kind is nn.Flatten:
            self._check_flattening(call, site, module.start_dim)
        if kind in _AT_ONE_PLACE:
            self._claim(site, module)
        if kind is nn.BatchNorm1d and self.multi_step and framework_of(module) is None and not call.meta[FOLDED]:
            raise site.unsupported(
                "torch's own BatchNorm1d takes [T, N, C] for N channels", "use the framework's BatchNorm1d"
            )
        return RULES[kind](self.plan, site, module, self.values[inputs[0]])

    def _check_flattening(self, call: fx.Node, site: Site, start_dim: Any) -> None:
        """Check that dimension 2 is that of the channels where a flattening begins at it."""
        one_step = self.parts is not None and (not self.multi_step or call.meta[FOLDED])
        site.require(
            not one_step or start_dim != 2, "flattening from dimension 2 on", "flatten from dimension 1 on"
        )

    def _no_lowering(self, site: Site, call: fx.Node) -> UnsupportedLayerError:
        module = self.net.get_submodule(site.path)
        framework = framework_of(module)
        reason = "" if framework is None else framework.explain(module)
        return site.unsupported(
            f"its forward uses {described(call)}, for which the engine has no lowering{reason}", _SUPPORTED
        )

    def _take_spikes(self, call: fx.Node, site: Site) -> Value:
        """Return the spikes out of what a neuron of another framework returns with its state."""
        neuron: Any
        neuron, index = call.args
        value = self.values[neuron]
        if not (isinstance(value, Map) and value.spikes and neuron.op == "call_module"):
            raise self._no_lowering(site, call)
        if index != 0:
            raise self._site(neuron.target).unsupported(
                "its membrane potentials are used, but the engine keeps its spikes only",
                "return the potentials of neurons behind the last conv or linear layer only",
            )
        return value

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
