"""The compressed form of a conv or linear layer: one vector of alive values and the places where they stand.

`weight` [nnz] holds the alive values in ascending order of their flat position in the dense weight (C order), the
buffer `positions` [nnz] those positions; a fully dense layer has none. `forward` scatters the values into a dense
weight, so a compressed network runs by itself. An engine reads `weight` and `positions` instead, and builds its
index anew when it sees another `version`, an int that grows with every change of the topology.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ndsnn.errors import SparsityError
from ndsnn.models.layers import _per_step

DenseGradientSink = Callable[[int, Tensor], None]
"""Takes the dense weight gradient piece by piece: (first output channel, gradient [channels, C_in, k_h, k_w])."""

Move = Callable[[Tensor], Tensor]
"""Brings a tensor [nnz before] into the order of a new topology [nnz after], with 0 at places that are new."""


class CompressedModule(nn.Module):
    """What the compressed layers share.

    `weight` stays the same object whatever becomes of the topology, so that optimizers keep working.

    Args:
        dense_shape: Shape of the dense weight, (out, in) or (C_out, C_in, k_h, k_w).
        values: Alive values [nnz].
        positions: Their ascending flat positions [nnz], or None where every weight is alive.
        bias: Bias [out], or None.
        sparse: Whether the layer is under sparse training, as one with a mask is, so that methods may prune it
            though every weight is alive now.

    Raises:
        SparsityError: Values and positions do not fit each other or the shape.
    """

    weight: nn.Parameter
    positions: Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self,
        dense_shape: tuple[int, ...],
        values: Tensor,
        positions: Tensor | None = None,
        bias: Tensor | None = None,
        sparse: bool = True,
    ) -> None:
        super().__init__()
        self.dense_shape = dense_shape
        if problem := topology_problem(values, positions, dense_shape):
            raise SparsityError(problem)
        self.weight = values if isinstance(values, nn.Parameter) else nn.Parameter(values)
        self.register_buffer("positions", self._index(positions))
        self.register_parameter(
            "bias", bias if bias is None or isinstance(bias, nn.Parameter) else nn.Parameter(bias)
        )
        self.sparse = sparse or self.positions is not None
        self.version = 0
        self.watcher: Callable[[], DenseGradientSink | None] | None = None
        # In a tuple, as a module that is an attribute would count as a submodule.
        self.origin: tuple[nn.Module, ...] = ()

    @property
    def nnz(self) -> int:
        """Number of alive weights."""
        return self.weight.numel()

    @property
    def size(self) -> int:
        """Number of places for a weight, alive or not."""
        return math.prod(self.dense_shape)

    def dense_gradient_sink(self) -> DenseGradientSink | None:
        """Return what takes the dense weight gradient of the backward pass under way, or None if nobody wants it.

        Ask once in a backward pass, and hand it all output channels, ascending.

        Raises:
            SparsityError: The pass adds to an earlier one of the same update step.
        """
        return None if self.watcher is None else self.watcher()

    def active_positions(self) -> Tensor:
        """Return the ascending flat positions of the alive weights [nnz] int64."""
        if self.positions is None:
            return torch.arange(self.size, device=self.weight.device)
        return self.positions.long()

    def scatter(self, values: Tensor) -> Tensor:
        """Return a tensor of the dense shape with `values` [nnz] at the alive places and 0 elsewhere."""
        if self.positions is None:
            return values.view(self.dense_shape)
        dense = values.new_zeros(self.size)
        dense[self.positions] = values
        return dense.view(self.dense_shape)

    def mask(self) -> Tensor:
        """Return a boolean tensor of the dense shape, true where a connection is alive."""
        return self.scatter(torch.ones(self.nnz, dtype=torch.bool, device=self.weight.device))

    def dense_weight(self) -> Tensor:
        """Return the dense weight as part of the graph: its gradient goes to `weight` and to the sink."""
        dense: Tensor = _ScatterValues.apply(self.weight, self)
        return dense

    @torch.no_grad()
    def rearrange(self, positions: Tensor, forget: Tensor | None = None) -> Move:
        """Take another topology; weights that stay alive keep their values, new ones are 0, the gradient is None.

        Args:
            positions: Ascending flat positions [nnz after] of the weights that are alive from now on.
            forget: Positions that were alive and start from 0 even if they are alive afterwards.

        Returns:
            What does the same to other tensors [nnz before], such as an optimizer's.
        """
        before, after = self.active_positions(), len(positions)
        stays = torch.isin(before, positions, assume_unique=True)
        if forget is not None:
            stays[torch.searchsorted(before, forget)] = False
        slots = torch.searchsorted(positions, before[stays])

        def move(tensor: Tensor) -> Tensor:
            moved = tensor.new_zeros(after)
            moved[slots] = tensor[stays]
            return moved

        values = move(self.weight.detach())
        if not torch.equal(before, positions):
            self._take_positions(positions)
        _refill(self.weight, values)
        return move

    def _take_positions(self, positions: Tensor | None) -> None:
        self.positions = self._index(positions)
        self.sparse = self.sparse or self.positions is not None
        self.version += 1

    def _index(self, positions: Tensor | None) -> Tensor | None:
        """Return positions as they are kept: None where every weight is alive."""
        if positions is None or len(positions) == self.size:
            return None
        return positions.to(self.weight.device, torch.int64 if self.size >= 2**31 else torch.int32, copy=True)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take values and positions of any number, or change nothing where they are not in order."""
        values, positions = state_dict.get(f"{prefix}weight"), state_dict.get(f"{prefix}positions")
        if values is None:
            positions = None
        elif problem := topology_problem(values, positions, self.dense_shape):
            error_msgs.append(f"{prefix}weight: {problem}")
            return
        else:
            self._fit(positions)
        rest = {key: value for key, value in state_dict.items() if key != f"{prefix}positions"}
        if self.positions is not None and positions is not None:
            rest[f"{prefix}positions"] = positions
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _fit(self, positions: Tensor | None) -> None:
        """Make room for values at `positions`, whatever they are, unless these are the present ones."""
        index = self._index(positions)
        same = self.positions is None if index is None else _equal(self.positions, index)
        if not same:
            self._take_positions(index)
            _refill(self.weight, self.weight.new_zeros(self.size if index is None else len(index)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the training method that watches this layer out of copies."""
        return self.__dict__ | {"watcher": None}

    def extra_repr(self) -> str:
        """Return the number of alive weights for `print(net)`."""
        return f"{self.nnz} of {self.size} weights, bias={self.bias is not None}"


class CompressedConv2d(CompressedModule):
    """A 2-d convolution with zero padding, without groups and dilation.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k_h, k_w.
        values: Alive values [nnz].
        positions: See `CompressedModule`, like the rest.
        bias: See there.
        stride: Vertical and horizontal stride.
        padding: Zeros above and below, left and right.
        sparse: See there.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        values: Tensor,
        positions: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        sparse: bool = True,
    ) -> None:
        super().__init__((out_channels, in_channels, *kernel_size), values, positions, bias, sparse)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [N, C, H, W] or [T, N, C, H, W]; raises ShapeError for other axes or channels."""
        return _per_step(self, x, ("N", self.in_channels, "H", "W"), self._convolve)

    def _convolve(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.dense_weight(), self.bias, self.stride, self.padding)

    def extra_repr(self) -> str:
        """Return shape and number of alive weights for `print(net)`."""
        shape = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        return f"{shape}, stride={self.stride}, padding={self.padding}, {super().extra_repr()}"


class CompressedLinear(CompressedModule):
    """A linear layer.

    Args:
        in_features: Features of the input.
        out_features: Features of the output.
        values: Alive values [nnz].
        positions: See `CompressedModule`, like the rest.
        bias: See there.
        sparse: See there.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        values: Tensor,
        positions: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        sparse: bool = True,
    ) -> None:
        super().__init__((out_features, in_features), values, positions, bias, sparse)
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: Tensor) -> Tensor:
        """Multiply [N, F] or [T, N, F] by the weight; raises ShapeError for other axes or features."""
        return _per_step(self, x, ("N", self.in_features), self._multiply)

    def _multiply(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.dense_weight(), self.bias)

    def extra_repr(self) -> str:
        """Return shape and number of alive weights for `print(net)`."""
        return f"{self.in_features}, {self.out_features}, {super().extra_repr()}"


class _ScatterValues(torch.autograd.Function):
    """Values [nnz] → dense weight; backward gathers, and shows the dense gradient to the sink if there is one."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, module: CompressedModule) -> Tensor:
        ctx.module, ctx.positions = module, module.positions
        return module.scatter(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        sink = ctx.module.dense_gradient_sink()
        if sink is not None:
            sink(0, gradient)
        flat = gradient.reshape(-1)
        return (flat if ctx.positions is None else flat[ctx.positions]), None


def topology_problem(values: Tensor, positions: Tensor | None, shape: tuple[int, ...]) -> str | None:
    """Say what is wrong with alive values and positions of a dense weight of `shape`; None if nothing is."""
    size = math.prod(shape)
    if values.ndim != 1:
        return (
            f"alive values are a vector [nnz], not of shape {tuple(values.shape)}; "
            f"a dense weight is loaded before it is compressed"
        )
    if positions is None:
        return None if len(values) == size else f"{len(values)} values without positions for {size} places"
    if positions.dtype not in (torch.int32, torch.int64) or positions.shape != values.shape:
        return (
            f"positions {positions.dtype} {tuple(positions.shape)} are no int32 or int64 vector "
            f"that goes with {len(values)} values"
        )
    ascending = bool((positions[1:] > positions[:-1]).all())
    if not ascending or (len(positions) and (int(positions[0]) < 0 or int(positions[-1]) >= size)):
        return f"positions are not ascending places of a weight of shape {tuple(shape)}"
    return None


def _refill(parameter: nn.Parameter, values: Tensor) -> None:
    """Give a parameter other values of any number; its gradient becomes None, it stays the same object."""
    parameter.grad = None
    if values.shape != parameter.shape:
        # A graph of an earlier step may still be referred to; its leaf node would refuse gradients of another
        # length. Autograd makes a new leaf node when the type changes.
        parameter.data = torch.empty(0, dtype=torch.float32 if values.dtype == torch.float64 else torch.float64)
    parameter.data = values


def _equal(one: Tensor | None, other: Tensor) -> bool:
    return one is not None and torch.equal(one, other)
