"""Methods whose `step` the optimizer calls, in training loops that others have written."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from ndsnn.errors import ConfigError, SparsityError
from ndsnn.sparse.handle import SparseLayer, parameters_of
from ndsnn.sparse.methods.clock import RoundClock
from ndsnn.sparse.methods.updates import TopologyUpdate

OnUpdate = Callable[[TopologyUpdate], object]

# All hooked steps of torch share this code, whatever the optimizer's class.
_HOOKED_STEP = Optimizer.profile_hook_step(Optimizer.step).__code__

_attached = WeakIdKeyDictionary()
"""The attached methods of each optimizer, whose hooks keep them alive."""


class Attachable(RoundClock, ABC):
    """What lets an optimizer call `step` of a method.

    Attributes:
        optimizer: The optimizer itself, without what Accelerate or Lightning puts around it.
        layers: Handles on the sparse layers.
    """

    needs_gradient: ClassVar[bool]
    optimizer: Optimizer
    layers: list[SparseLayer]
    _handles: tuple[RemovableHandle, ...] = ()
    _called_by_optimizer = False

    @abstractmethod
    def step(self) -> TopologyUpdate | None:
        """Count one optimizer step (see `SparseTraining`)."""

    @abstractmethod
    def require_finite_gradients(self) -> None:
        """Check the gradients that the next step needs (see `SparseTraining`)."""

    @property
    def attached(self) -> bool:
        """Whether the optimizer calls `step`."""
        return bool(self._handles)

    def attach(self, optimizer: Optimizer | None = None, on_update: OnUpdate | None = None) -> None:
        """Let each step of the optimizer be followed by a step of this method, until `detach`.

        The gradients that growth needs are checked before the optimizer changes a weight. A step that a gradient
        scaler skips doesn't count, nor does one in which no sparse layer has a gradient. At an update step whose
        dense gradient is not finite, `grad` is not finite either, so that a scaler sees it and skips the step.

        Args:
            optimizer: The optimizer that the method was made with, or a wrapper of it; None for that one.
            on_update: Is told of every topology update.

        Raises:
            ConfigError: It is another optimizer, or a method is attached already.
            SparsityError: The optimizer does not hold the weight of a sparse layer.
        """
        self._require_attachable(self.optimizer if optimizer is None else innermost(optimizer))
        due = False

        def begin(*_: Any) -> None:
            nonlocal due
            if _outermost(self.optimizer):
                due = False

        def check() -> None:
            nonlocal due
            due = any(layer.weight.grad is not None for layer in self.layers)
            if due:
                self.require_finite_gradients()

        def end(*_: Any) -> None:
            if due and _outermost(self.optimizer):
                self._step_of_optimizer(on_update)

        self._handles = (
            self.optimizer.register_step_pre_hook(begin),
            before_update(self.optimizer, check),
            self.optimizer.register_step_post_hook(end),
        )
        _attached.setdefault(self.optimizer, WeakSet()).add(self)
        for layer in self.layers:
            layer.shows_overflow = True

    def detach(self) -> None:
        """Let the optimizer alone again; `step` is the loop's to call. Nothing happens if it is not attached."""
        if not self.attached:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = ()
        _attached[self.optimizer].discard(self)
        for layer in self.layers:
            layer.shows_overflow = False

    def _step_of_optimizer(self, on_update: OnUpdate | None) -> None:
        self._called_by_optimizer = True
        try:
            update = self.step()
        finally:
            self._called_by_optimizer = False
        if update is not None and on_update is not None:
            on_update(update)

    def _require_step_due(self) -> None:
        """Check that no loop counts a step which the optimizer has counted.

        Raises:
            ConfigError: One does.
        """
        if self.attached and not self._called_by_optimizer:
            raise ConfigError(
                f"{type(self).__name__} is attached to its optimizer, whose steps call its own; "
                f"leave this call of step() out, or call detach() before it"
            )

    def _require_attachable(self, optimizer: Optimizer) -> None:
        name = type(self).__name__
        if not isinstance(self.optimizer, Optimizer):
            raise ConfigError(f"{name} was made with a {type(self.optimizer).__name__}, not a torch optimizer")
        if optimizer is not self.optimizer:
            raise ConfigError(
                f"{name} moves the state of the {type(self.optimizer).__name__} that it was made with; "
                f"the {type(optimizer).__name__} given to attach() is another one"
            )
        mine = {id(layer.weight) for layer in self.layers}
        for method in _attached.get(optimizer, ()):
            if mine & {id(layer.weight) for layer in method.layers}:
                raise ConfigError(
                    f"a {type(method).__name__} is attached to the optimizer already; call its detach() first"
                )
        held = {id(parameter) for parameter in parameters_of(optimizer)}
        for layer in self.layers:
            if id(layer.weight) not in held:
                raise SparsityError(
                    f"the optimizer doesn't hold the weight of layer {layer.name!r}; create it after "
                    f"ndsnn.accelerate and whatever else replaces parameters"
                )


def innermost(optimizer: Optimizer) -> Optimizer:
    """Return what Accelerate's or Lightning's optimizer is a front of; any other optimizer as it is.

    A wrapper with a state of its own, such as Lookahead, is no front.
    """
    inner = getattr(optimizer, "optimizer", None)
    while isinstance(inner, Optimizer) and inner.state is optimizer.state:
        optimizer, inner = inner, getattr(inner, "optimizer", None)
    return optimizer


def before_update(optimizer: Optimizer, action: Callable[[], None]) -> RemovableHandle:
    """Let `action` be called in each step of `optimizer` when the gradients are there and no weight has changed.

    Where a closure computes the gradients, that is after each call of the closure.
    """

    def hook(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        if not _outermost(optimizer) or _skipped(optimizer):
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if not callable(closure):
            with torch.no_grad():
                action()
            return None

        def closure_and_action() -> Any:
            loss = closure()
            with torch.no_grad():
                action()
            return loss

        if "closure" in kwargs:
            return args, kwargs | {"closure": closure_and_action}
        return (args[0], closure_and_action, *args[2:]), kwargs

    return optimizer.register_step_pre_hook(hook)


def gradient_scale(optimizer: Optimizer) -> Any:
    """Return the factor that is still in the gradients in a step of a fused optimizer under a gradient scaler."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1 if scale is None else scale


def _skipped(optimizer: Optimizer) -> bool:
    """Say whether the step under way changes nothing: a gradient scaler told a fused optimizer of an overflow."""
    overflow = getattr(optimizer, "found_inf", None)
    return overflow is not None and bool(overflow)


def _outermost(optimizer: Optimizer) -> bool:
    """Say whether the step whose hooks run is not part of another step of `optimizer`.

    Where a subclass's `step` calls its base's, torch runs the hooks for both.
    """
    frame: FrameType | None = sys._getframe(1)
    steps = 0
    while frame is not None:
        if frame.f_code is _HOOKED_STEP and frame.f_locals.get("self") is optimizer:
            steps += 1
        frame = frame.f_back
    return steps <= 1
