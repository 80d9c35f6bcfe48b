"""What a network does in front of its first layer and behind its readout, carried out in torch as it stands.

A network of another framework repeats its images over time, ends in a layer of neurons, and returns their mean
over the steps. Such calls are no part of the graph: the engine runs from the first layer to the last synapse, and
these parts run before and after it, with the framework's own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ndsnn.engine.foreign.framework import framework_of
from ndsnn.engine.lowering.tracing import ADDITIONS, FLATTENINGS, FOLDED

EACH_STEP = "ndsnn_each_step"
"""Key of a node's meta: whether it is called for each step of its inputs, which have all of them."""


@dataclass(frozen=True)
class Ref:
    """The result of the call of this number; 0 is what a part is given."""

    number: int


@dataclass(frozen=True)
class Call:
    """One call.

    Args:
        op: "call_module", "call_function", "call_method" or "get_attr".
        target: Path of the module or tensor, the function, or the method's name.
        args: Arguments, with a `Ref` for each result of another call.
        kwargs: Arguments by name.
        each_step: Whether it is made for each step of its inputs.
        folded: Whether it is made once with all steps of its inputs as samples.
    """

    op: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    each_step: bool
    folded: bool

    def run(self, net: nn.Module, args: Any, kwargs: Any) -> Any:
        """Make the call once, with a network's present modules."""
        if self.op == "get_attr":
            owner, _, name = self.target.rpartition(".")
            return getattr(net.get_submodule(owner), name)
        if self.op == "call_module":
            return net.get_submodule(self.target)(*args, **kwargs)
        if self.op == "call_method":
            return getattr(args[0], self.target)(*args[1:], **kwargs)
        return self.target(*args, **kwargs)


@dataclass(frozen=True)
class Part:
    """Calls in order, and what they end in.

    Args:
        calls: The first has number 1.
        result: A `Ref`, or tuples, lists and dicts of them.
    """

    calls: tuple[Call, ...]
    result: Any

    def run(self, net: nn.Module, given: Tensor) -> Any:
        """Make all calls, with the modules of `net`, on what is given."""
        found: list[Any] = [given]
        for call in self.calls:
            found.append(_over_steps(net, call, found) if call.each_step else _once(net, call, found))
        return _resolved(self.result, found.__getitem__)


def _once(net: nn.Module, call: Call, found: list[Any]) -> Any:
    steps: list[tuple[int, int]] = []

    def get(number: int) -> Any:
        if not call.folded:
            return found[number]
        steps.append(found[number].shape[:2])
        return found[number].flatten(0, 1)

    result = call.run(net, _resolved(call.args, get), _resolved(call.kwargs, get))
    return result.unflatten(0, steps[0]) if steps else result


def _over_steps(net: nn.Module, call: Call, found: list[Any]) -> Any:
    """Make a call for each step: a neuron with its state handed on, anything else on its own."""
    if call.op == "call_module":
        module = net.get_submodule(call.target)
        framework = framework_of(module)
        if framework is not None and framework.leaf(module) is not None:
            return framework.over_time(module, found[call.args[0].number])
    read: list[Tensor] = []
    _resolved((call.args, call.kwargs), lambda number: read.append(found[number]))
    results = []
    for t in range(len(read[0])):

        def at(number: int, t: int = t) -> Any:
            return found[number][t]

        results.append(call.run(net, _resolved(call.args, at), _resolved(call.kwargs, at)))
    return torch.stack(results)


def _resolved(value: Any, get: Callable[[int], Any]) -> Any:
    """Return `value` with `get(number)` in the place of each `Ref`."""
    if isinstance(value, Ref):
        return get(value.number)
    if isinstance(value, slice):
        return slice(*(_resolved(bound, get) for bound in (value.start, value.stop, value.step)))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_resolved(item, get) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_resolved(item, get) for item in value)
    if isinstance(value, dict):
        return {key: _resolved(item, get) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class Split:
    """Where the engine's part of a trace begins and ends.

    Args:
        entry: The node whose value the engine is given: the placeholder, or the last of the head.
        head: What runs in front, or None.
        readout: The call of the last synapse, where something runs behind it; else None.
        tail: What runs behind, or None.
        outside: The nodes of both.
    """

    entry: fx.Node | None
    head: Part | None
    readout: fx.Node | None
    tail: Part | None
    outside: frozenset[fx.Node]


def split(traced: fx.Graph, root: nn.Module, is_synapse: Callable[[fx.Node], bool]) -> Split:
    """Find the parts in front of the first layer and behind the last synapse.

    Args:
        traced: The calls.
        root: The module that was traced, for the constants that the trace has put there.
        is_synapse: Says whether a node calls a conv or linear layer.
    """
    placeholder = next((node for node in traced.nodes if node.op == "placeholder"), None)
    head_nodes, entry = _head(traced, placeholder)
    readout, tail_nodes = _tail(traced, is_synapse)
    output = next(node for node in traced.nodes if node.op == "output")
    head = tail = None
    if head_nodes and placeholder is not None:
        head = _part(root, placeholder, head_nodes, entry)
    if tail_nodes and readout is not None:
        tail = _part(root, readout, tail_nodes, output.args[0])
    return Split(entry, head, readout if tail else None, tail, frozenset({*head_nodes, *tail_nodes}))


def _head(traced: fx.Graph, placeholder: fx.Node | None) -> tuple[list[fx.Node], fx.Node | None]:
    """Return the functions of the input alone, and the only one of them that anything else reads.

    Where nothing but flattenings stand there, the engine flattens.
    """
    if placeholder is None:
        return [], None
    known, nodes = {placeholder}, []
    for node in traced.nodes:
        if node.op == "get_attr" or (
            _is_function(node) and node.all_input_nodes and known.issuperset(node.all_input_nodes)
        ):
            known.add(node)
            nodes.append(node)
    nodes = [node for node in nodes if node.op != "get_attr" or known.issuperset(node.users)]
    exits = [node for node in (placeholder, *nodes) if any(user not in known for user in node.users)]
    idle = all(node.target in FLATTENINGS for node in nodes)
    if idle or len(exits) != 1 or exits[0] is placeholder:
        return [], placeholder
    return nodes, exits[0]


def _is_function(node: fx.Node) -> bool:
    """Say whether a node calls a function that the engine does not carry out itself."""
    return node.op in ("call_function", "call_method") and node.target not in ADDITIONS


def _tail(traced: fx.Graph, is_synapse: Callable[[fx.Node], bool]) -> tuple[fx.Node | None, list[fx.Node]]:
    """Return the last synapse and the nodes behind it, where these read nothing but it; else no nodes."""
    synapses = [node for node in traced.nodes if is_synapse(node)]
    if not synapses:
        return None, []
    readout = synapses[-1]
    behind, nodes = {readout}, []
    passed = False
    for node in traced.nodes:
        passed = passed or node is readout
        constant = node.op == "get_attr" and passed
        if constant or (node.op != "output" and behind.intersection(node.all_input_nodes)):
            behind.add(node)
            nodes.append(node)
    output = next(node for node in traced.nodes if node.op == "output")
    inside = all(behind.issuperset(node.all_input_nodes) for node in (*nodes, output))
    return readout, nodes if inside and output.all_input_nodes != [readout] else []


def _part(root: nn.Module, given: fx.Node, nodes: Iterable[fx.Node], result: Any) -> Part:
    numbers = {given: 0}
    constants: dict[fx.Node, Any] = {}
    calls: list[Call] = []

    def at(node: fx.Node) -> Any:
        return constants[node] if node in constants else Ref(numbers[node])

    def refer(argument: Any) -> Any:
        return fx.node.map_arg(argument, at)

    for node in nodes:
        if node.op == "get_attr" and str(node.target).startswith("_tensor_constant"):
            # The trace has made it an attribute of its root, which is a copy.
            constants[node] = getattr(root, str(node.target))
            continue
        args, kwargs = _plain(refer(node.args)), _plain(refer(node.kwargs))
        each_step, folded = bool(node.meta.get(EACH_STEP)), bool(node.meta.get(FOLDED))
        calls.append(Call(node.op, node.target, args, kwargs, each_step, folded))
        numbers[node] = len(calls)
    return Part(tuple(calls), _plain(refer(result)))


def _plain(value: Any) -> Any:
    """Return tuples, lists and dicts for the immutable ones of a trace."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_plain(item) for item in value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
