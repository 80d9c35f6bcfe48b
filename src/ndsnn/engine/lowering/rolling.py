"""A loop over time that a network's forward writes out, rolled up into one call of each layer for all steps.

The trace of such a forward calls every layer T times:

    membrane = lif.reset_mem()
    for t in range(T):
        spikes, membrane = lif(fc(x[t]), membrane)
        record.append(spikes)
    return torch.stack(record)

Here each traced value is what it is at all steps (the input itself, what is computed of it alone), or the value of
step t of a rolled node. A call on step t of the same rolled arguments as an earlier one is step t of the same
rolled call. A neuron's call number t belongs to step t, and must go on from the state that its call number t − 1
returned. `torch.stack` of all steps is the rolled value itself.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ndsnn.engine.foreign.framework import ForeignNeuron, Framework, framework_of
from ndsnn.engine.lowering.leaves import leaf_class
from ndsnn.engine.lowering.parts import EACH_STEP
from ndsnn.engine.lowering.steps import Begun, Fired, Same, State, Step, first_steps, repeat_steps
from ndsnn.engine.lowering.tracing import ADDITIONS, SITE, described
from ndsnn.engine.sites import Site

ONE_STEP = "runs_each_step"
"""Attribute of a module that calls the module inside it once for each step (`ndsnn.interop.OverTime`)."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_SUMS = (*ADDITIONS, "add_")


@dataclass(frozen=True)
class Rolled:
    """A trace without its loop.

    Args:
        graph: The calls, each for all steps.
        norms: Paths of batch norms that the loop calls step by step.
        resetting: Paths of neurons whose state begins anew in every forward.
    """

    graph: fx.Graph
    norms: tuple[str, ...]
    resetting: frozenset[str]


def holds_loop(net: nn.Module) -> bool:
    """Say whether `net` has neurons that take one step, so that a loop over time stands in its forward."""
    return any(
        framework.own_loops and framework.leaf(module) is ForeignNeuron
        for module in net.modules()
        if (framework := framework_of(module)) is not None
    )


def roll(net: nn.Module, traced: fx.Graph, root: nn.Module) -> Rolled:
    """Roll the loop over time up that a trace has written out.

    Args:
        net: The network, with modules at the paths that the trace calls.
        traced: Its calls.
        root: The module that was traced.

    Raises:
        UnsupportedLayerError: The steps are no such loop; the message names the call that does not fit.
    """
    return _Roller(net, traced, root).run()


class _Roller:
    """One pass over a trace."""

    def __init__(self, net: nn.Module, traced: fx.Graph, root: nn.Module) -> None:
        self.net, self.traced, self.root = net, traced, root
        self.network = Site("", type(net).__name__)
        self.one_step = bool(getattr(net, ONE_STEP, False))
        self.graph = fx.Graph()
        self.values: dict[fx.Node, Any] = {}
        self.known: dict[Any, fx.Node] = {}
        self.calls: dict[str, int] = {}
        self.stateless: set[str] = set()
        self.norms: set[str] = set()
        repeated: Any = getattr(net, "time_steps", None) if self.one_step else None
        self.given_whole = self.one_step and repeated is None
        self.steps: int = (repeated or 1) if self.one_step else self._count_steps()

    def _count_steps(self) -> int:
        counts: dict[str, int] = {}
        for call in self.traced.nodes:
            if call.op == "call_module" and self._neuron(call) is not None:
                counts[str(call.target)] = counts.get(str(call.target), 0) + 1
        if len(set(counts.values())) > 1:
            few, many = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            raise self._site(few).unsupported(
                f"it is called {counts[few]} times, {many!r} {counts[many]} times", "call each neuron once a step"
            )
        steps = next(iter(counts.values()), 0)
        if steps == 1:
            raise self.network.unsupported(
                "its forward computes one step (or a number of steps that is not known before it runs)",
                "let forward hold the loop over a fixed number of steps, or wrap the network: "
                "ndsnn.interop.OverTime(net)",
            )
        return steps

    def run(self) -> Rolled:
        """Return the trace without its loop."""
        for node in self.traced.nodes:
            self.values[node] = self._roll(node)
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node.op not in ("output", "placeholder", "call_module"):
                self.graph.erase_node(node)
        return Rolled(self.graph, tuple(sorted(self.norms)), frozenset(self.stateless))

    def _roll(self, node: fx.Node) -> Any:
        if node.op == "placeholder":
            given = self._emit(node, "placeholder", node.target, (), {})
            return Step(given, 0) if self.given_whole else Same(given)
        if node.op == "get_attr":
            return Same(self._emit(node, "get_attr", node.target, (), {}))
        if node.op == "output":
            return self._emit(node, "output", "output", (fx.node.map_arg(node.args[0], self._whole),), {})
        if node.op == "call_module" and self._neuron(node) is not None:
            return self._fire(node)
        if node.op == "call_function" and node.target is operator.getitem:
            taken = self._take_item(node)
            if taken is not None:
                return taken
        if node.target in (torch.stack, torch.cat):
            return self._stack(node)
        return self._sum(node) or self._call(node)

    def _fire(self, node: fx.Node) -> Any:
        path = str(node.target)
        framework = self._neuron(node)
        assert framework is not None
        site, module = self._site(path), self.net.get_submodule(path)
        t = self.calls.get(path, 0)
        self.calls[path] = t + 1
        site.require(
            t == 0 or not self.one_step, "a neuron that is called more than once a step", "use one for each"
        )
        current, *state = (*node.args, *node.kwargs.values())
        self._check_state(site, framework, module, t, state)
        source = self._at(site, current, t)
        rolled = self._known(("neuron", path, source), node, "call_module", path, (source,), {}, each_step=True)
        return Fired(path, rolled, t) if framework.gives_state(module) else Step(rolled, t)

    def _check_state(self, site: Site, framework: Framework, module: nn.Module, t: int, state: list[Any]) -> None:
        """Check that step t of a neuron goes on from step t − 1."""
        value = self.values.get(state[0]) if state and isinstance(state[0], fx.Node) else None
        if self.one_step:
            self.stateless.add(site.path)
            site.require(
                not any(one is not None for one in state), "a state that it is given", "use init_hidden=True"
            )
            return
        if t == 0 and state and state[0] is not None:
            zero = isinstance(value, Same) and self._is_zero(value.node)
            site.require(
                zero, "a state that it is given at the first step", "begin at init_leaky() or reset_mem()"
            )
            self.stateless.add(site.path)
        elif t > 0 and framework.takes_state(module):
            follows = isinstance(value, State) and value.path == site.path and value.t == t - 1
            site.require(
                follows, f"the state that it is given at step {t}", "hand on what the step before returned"
            )

    def _is_zero(self, node: fx.Node) -> bool:
        if node.op != "get_attr":
            return False
        owner, _, name = str(node.target).rpartition(".")
        value = getattr(self.root.get_submodule(owner), name)
        return isinstance(value, Tensor) and not value.any()

    def _take_item(self, node: fx.Node) -> Any:
        """Return a step of the input, or spikes or state of what a neuron returned; None for any other item."""
        whole: Any
        index: Any
        whole, index = node.args
        value = self.values.get(whole) if isinstance(whole, fx.Node) else None
        if isinstance(value, Fired) and index in (0, 1):
            item = self._known(
                ("item", value.node, index), node, "call_function", operator.getitem, (value.node, index), {}
            )
            return Step(item, value.t) if index == 0 else State(value.path, item, value.t)
        if not isinstance(value, Same):
            return None
        if isinstance(index, int) and 0 <= index < self.steps:
            sequence = self._known(
                ("steps", value.node), node, "call_function", first_steps, (value.node, self.steps), {}
            )
            return Step(sequence, index)
        if isinstance(index, tuple) and len(index) >= 2 and index[0] == slice(None) and isinstance(index[1], int):
            rest = index[2:]
            if all(one in (slice(None), ...) for one in rest) and 0 <= index[1] < self.steps:
                swapped = self._known(
                    ("swap", value.node), node, "call_method", "transpose", (value.node, 0, 1), {}
                )
                sequence = self._known(
                    ("steps", swapped), node, "call_function", first_steps, (swapped, self.steps), {}
                )
                return Step(sequence, index[1])
        return None

    def _stack(self, node: fx.Node) -> Any:
        """Return the rolled value for a stack of all its steps in order."""
        items: Any = node.args[0]
        dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        values = [self.values.get(item) for item in items] if isinstance(items, tuple | list) else []
        wholes = [self._sequence(value) for value in values]
        first = wholes[0] if wholes else None
        if first is None or [value.t for value in values if isinstance(value, Step | State)] != list(
            range(self.steps)
        ):
            return self._call(node)
        if node.target is not torch.stack or any(whole is not first for whole in wholes):
            return self._call(node)
        if dim == 0:
            return Same(first)
        return Same(self._emit(node, "call_method", "movedim", (first, 0, dim), {}))

    def _sequence(self, value: Any) -> fx.Node | None:
        return value.node if isinstance(value, Step | State) else None

    def _sum(self, node: fx.Node) -> Any:
        """Return a running sum over steps, or the sum of all steps; None for any other call."""
        if node.target not in _SUMS or len(node.args) != 2 or node.kwargs:
            return None
        left, right = (self.values.get(a) if isinstance(a, fx.Node) else a for a in node.args)
        if not isinstance(right, Step):
            left, right = right, left
        if not isinstance(right, Step):
            return None
        begins = right.t == 0 and isinstance(left, int | float) and left == 0
        goes_on = isinstance(left, Begun) and left.node is right.node and left.t == right.t - 1
        second = isinstance(left, Step) and left.node is right.node and {left.t, right.t} == {0, 1}
        if not (begins or goes_on or second):
            return None
        t = max(right.t, left.t) if second and isinstance(left, Step) else right.t
        if t < self.steps - 1:
            return Begun(right.node, t)
        return Same(self._emit(node, "call_method", "sum", (right.node, 0), {}))

    def _call(self, node: fx.Node) -> Any:
        """Roll any other call: of one step of its arguments, or of none."""
        read = [self.values[one] for one in node.all_input_nodes]
        steps = {value.t for value in read if isinstance(value, Step)}
        outside = [value for value in read if not isinstance(value, Step | Same)]
        if outside or len(steps) > 1:
            site: Site = node.meta[SITE]
            raise site.unsupported(
                f"{described(node)} reads values of different steps, or a neuron's state",
                "let a step read only the spikes and currents of that step; neurons keep what is older",
            )
        if node.op == "call_module" and leaf_class(self.net.get_submodule(str(node.target))) in _NORMS:
            self.norms.add(str(node.target))
        args: Any
        kwargs: Any
        args, kwargs = (fx.node.map_arg(a, lambda one: self.values[one].node) for a in (node.args, node.kwargs))
        op, target = node.op, node.target
        if steps and target in ("view", "reshape") and len(args) == 3 and args[2] == -1:
            # Of one step, [N, −1] is a flattening, whatever the number is that stands for N.
            target, args, kwargs = "flatten", (args[0], 1), {}
        if op == "call_module" or steps:
            rolled = self._known((op, target, str(args), str(kwargs)), node, op, target, args, kwargs)
        else:
            rolled = self._emit(node, op, target, args, kwargs)
        rolled.meta[EACH_STEP] = bool(steps)
        return Step(rolled, steps.pop()) if steps else Same(rolled)

    def _at(self, site: Site, argument: Any, t: int) -> fx.Node:
        """Return the rolled current of a neuron's call at step t."""
        value = self.values.get(argument) if isinstance(argument, fx.Node) else None
        if isinstance(value, Step) and value.t == t:
            return value.node
        if isinstance(value, Same):
            key = ("repeat", value.node)
            return self._known(key, argument, "call_function", repeat_steps, (value.node, self.steps), {})
        raise site.unsupported(
            f"its call number {t} reads something else than step {t}", "call it once a step, in the order of steps"
        )

    def _whole(self, node: fx.Node) -> fx.Node:
        """Return what a returned value is in the rolled trace."""
        value = self.values[node]
        if isinstance(value, Same) or (self.one_step and isinstance(value, Step | State | Fired)):
            return value.node
        if isinstance(value, Step | State):
            return self._emit(node, "call_function", operator.getitem, (value.node, value.t), {})
        raise self.network.unsupported(
            f"it returns {described(node)} of some of the steps",
            "return all steps stacked, their sum, or one of them",
        )

    def _neuron(self, node: fx.Node) -> Framework | None:
        """Return the adapter of the neuron that a node calls; None if it calls something else."""
        module = self.net.get_submodule(str(node.target))
        framework = framework_of(module)
        return framework if framework is not None and framework.leaf(module) is ForeignNeuron else None

    def _site(self, path: str) -> Site:
        return Site(path, type(self.net.get_submodule(path)).__name__)

    def _known(
        self, key: Any, like: fx.Node, op: str, target: Any, args: Any, kwargs: Any, each_step: bool = False
    ) -> fx.Node:
        """Return the rolled call that is known by `key`, or make it."""
        if key not in self.known:
            self.known[key] = self._emit(like, op, target, args, kwargs)
            self.known[key].meta[EACH_STEP] = each_step
        return self.known[key]

    def _emit(self, like: fx.Node, op: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        """Add a call to the rolled trace, at the place in the network where `like` is made."""
        node = self.graph.create_node(op, target, args, kwargs)
        node.meta.update(like.meta)
        node.meta[EACH_STEP] = False
        return node
